// The console: containers, and of one of them its metrics, its log and a terminal. What a container says is put into the page as text,
// never as markup.

import { Chart, bytes, number, rate } from "./charts.js";

const EVERY_MS = 2000;
const LOG_PIECES_MAX = 5000;
/** Of what is typed or pasted, in one message. */
const PIECE_BYTES = 64 * 1024;
const KEEP = "cc-session";
const PROTOCOL = "v5.channel.k8s.io";
const [STDIN, STDOUT, STDERR, ERROR, RESIZE] = [0, 1, 2, 3, 4];

const by = (id) => document.getElementById(id);
const encoder = new TextEncoder();

let session = sessionStorage.getItem(KEEP) ?? "";
let mayOperate = sessionStorage.getItem(`${KEEP}-operator`) === "true";
let containers = [];
/** What is shown of the container that was chosen; `close` ends what goes on for it. */
let shown = null;
const notices = {};

/** Said until somebody else of the same kind has something to say, or nothing. */
function notice(kind, text) {
  notices[kind] = text;
  by("notice").textContent = Object.values(notices).filter(Boolean).join(" ");
  by("notice").hidden = by("notice").textContent === "";
}

async function ask(method, path, body) {
  const headers = session ? { Authorization: `Bearer ${session}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json();
  if (answer.ok) return said;
  if (answer.status === 401) forget();
  throw new Error(`${said.what}: ${said.why}${said.next ? ` (${said.next})` : ""}`);
}

function forget() {
  shown?.close();
  session = "";
  sessionStorage.removeItem(KEEP);
}

async function enter() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
  if (ticket) {
    // It is spent now, and nobody needs it in the history.
    history.replaceState(null, "", location.pathname);
    const opened = await ask("POST", "/v1/session", { ticket });
    session = opened.session;
    mayOperate = opened.operator;
    sessionStorage.setItem(KEEP, session);
    sessionStorage.setItem(`${KEEP}-operator`, String(mayOperate));
    sessionStorage.setItem(`${KEEP}-project`, opened.project);
  }
  if (!session) throw new Error("This page needs a link: run `cc console`, and open what it prints.");
  by("project").textContent = `project ${sessionStorage.getItem(`${KEEP}-project`)}`;
  by("leave").hidden = false;
}

by("leave").addEventListener("click", async () => {
  try {
    await ask("DELETE", "/v1/session");
  } finally {
    forget();
    location.reload();
  }
});

/** A socket of a container's, with a ticket of its own: a browser cannot give it a header. */
async function open(id, what, query) {
  const { ticket } = await ask("POST", "/v1/ticket");
  query.append("ticket", ticket);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const path = `/v1/containers/${encodeURIComponent(id)}/${what}`;
  const socket = new WebSocket(`${scheme}//${location.host}${path}?${query}`, [PROTOCOL]);
  socket.binaryType = "arraybuffer";
  return socket;
}

function frame(channel, content) {
  const framed = new Uint8Array(1 + content.length);
  framed[0] = channel;
  framed.set(content, 1);
  return framed;
}

const status = (payload) => JSON.parse(new TextDecoder().decode(payload));
const succeeded = (payload) => status(payload).status === "Success";

/** How it ended, in a sentence. */
function ending(payload) {
  return succeeded(payload) ? "It ended." : status(payload).message;
}

function age(fromMs) {
  const seconds = Math.max(0, Math.round((Date.now() - fromMs) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function list() {
  const rows = containers.filter((c) => by("all").checked || c.state === "running");
  by("none").hidden = rows.length > 0;
  by("containers").replaceChildren(...rows.map((container) => {
    const row = document.createElement("tr");
    row.dataset.id = container.id;
    row.setAttribute("aria-selected", String(shown?.id === container.id));
    const cell = (text, kind) => {
      const made = row.appendChild(document.createElement("td"));
      made.textContent = text;
      if (kind) made.className = kind;
    };
    const ended = container.exit_code === null ? "" : ` (${container.exit_code})`;
    cell(container.name);
    cell(container.health ? `${container.state}, ${container.health}` : container.state + ended, container.health || container.state);
    cell(container.image);
    cell(container.vpc || "–");
    cell([container.ipv4, container.ipv6].filter(Boolean).join(" ") || "–");
    cell(age(container.started_ms || container.created_ms));
    row.addEventListener("click", () => choose(container));
    return row;
  }));
}

function choose(container) {
  shown?.close();
  notice("chosen", "");
  const { id, name, state } = container;
  shown = { id, state, turn: 0, closers: [], close() { this.closers.splice(0).forEach((close) => close()); } };
  by("detail").hidden = false;
  by("name").textContent = `${name} · ${id}`;
  by("charts").replaceChildren();
  metrics(shown);
  tab("metrics");
  list();
}

for (const button of document.querySelectorAll("[data-tab]")) {
  button.addEventListener("click", () => tab(button.dataset.tab));
}

function tab(name) {
  for (const button of document.querySelectorAll("[data-tab]")) {
    button.setAttribute("aria-selected", String(button.dataset.tab === name));
  }
  for (const panel of document.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== name;
  leave(shown);
  notice("chosen", "");
  if (name === "logs") logs(shown);
  if (name === "terminal") terminal(shown);
}

/** Ends what the tab has open; what is still being opened finds that its turn is over. */
function leave(of) {
  of.turn += 1;
  of.stopTab?.();
  of.stopTab = null;
}

/** Charts of one container, for as long as it is the one that is shown. */
function metrics(of) {
  const charts = {
    cpu: new Chart("CPU", (percent) => `${number(percent)} %`),
    memory: new Chart("Memory", bytes),
    packets: new Chart("Packets a second", number),
    traffic: new Chart("Bytes a second", bytes),
    drops: new Chart("Drops a second", number),
  };
  by("charts").replaceChildren(...Object.values(charts).map((chart) => chart.figure));
  let before = null;
  const sample = async () => {
    let now;
    try {
      now = await ask("GET", `/v1/containers/${encodeURIComponent(of.id)}/metrics`);
    } catch {
      // It does not run: its charts stay where they are.
      return;
    }
    if (before && shown === of) {
      const grown = (take) => rate(take(before), take(now), before.at_ms, now.at_ms);
      charts.cpu.add({ cpu: grown((m) => m.cpu_usage_us) / 1e4 });
      charts.memory.add({ memory: now.memory_bytes });
      charts.packets.add({ in: grown((m) => m.received.packets), out: grown((m) => m.sent.packets) });
      charts.traffic.add({ in: grown((m) => m.received.bytes), out: grown((m) => m.sent.bytes) });
      const key = (drop) => `${drop.direction} ${drop.reason}`;
      const earlier = new Map(before.drops.map((drop) => [key(drop), drop.packets]));
      const growth = now.drops.map((drop) => [key(drop), rate(earlier.get(key(drop)) ?? 0, drop.packets, before.at_ms, now.at_ms)]);
      charts.drops.add(growth.length ? Object.fromEntries(growth) : { none: 0 });
    }
    before = now;
  };
  sample();
  const timer = setInterval(sample, EVERY_MS);
  of.closers.push(() => clearInterval(timer));
}

async function logs(of) {
  const log = by("log");
  log.replaceChildren();
  const decoders = { [STDOUT]: new TextDecoder(), [STDERR]: new TextDecoder() };
  const turn = of.turn;
  try {
    const socket = await open(of.id, "logs", new URLSearchParams({ follow: "true", tail: "500" }));
    if (shown !== of || of.turn !== turn) return socket.close();
    of.stopTab = () => socket.close();
    of.closers.push(() => socket.close());
    socket.addEventListener("message", ({ data }) => {
      const [channel, payload] = [new Uint8Array(data)[0], new Uint8Array(data, 1)];
      if (channel === ERROR && !succeeded(payload)) notice("chosen", ending(payload));
      if (!(channel in decoders)) return;
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      const piece = document.createElement("span");
      if (channel === STDERR) piece.className = "stderr";
      piece.textContent = decoders[channel].decode(payload, { stream: true });
      log.appendChild(piece);
      while (log.childElementCount > LOG_PIECES_MAX) log.firstElementChild.remove();
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
  } catch (error) {
    notice("chosen", error.message);
  }
}

function terminal(of) {
  const screen = by("screen");
  screen.replaceChildren();
  by("open").disabled = !mayOperate || of.state !== "running";
  by("program").onsubmit = (event) => {
    event.preventDefault();
    run(of, screen, by("command").value.trim().split(/\s+/));
  };
}

async function run(of, screen, command) {
  leave(of);
  const turn = of.turn;
  screen.replaceChildren();
  const display = new Terminal({ cursorBlink: true, scrollback: 5000 });
  const fit = new FitAddon.FitAddon();
  display.loadAddon(fit);
  display.open(screen);
  fit.fit();
  const query = new URLSearchParams({ tty: "true", stdin: "true", rows: display.rows, columns: display.cols });
  command.forEach((word) => query.append("command", word));
  let socket;
  try {
    socket = await open(of.id, "exec", query);
  } catch (error) {
    display.dispose();
    return notice("chosen", error.message);
  }
  if (shown !== of || of.turn !== turn) {
    display.dispose();
    return socket.close();
  }
  const send = (channel, content) => {
    for (let at = 0; at < content.length && socket.readyState === WebSocket.OPEN; at += PIECE_BYTES) {
      socket.send(frame(channel, content.subarray(at, at + PIECE_BYTES)));
    }
  };
  const fitted = () => fit.fit();
  window.addEventListener("resize", fitted);
  const stop = () => {
    window.removeEventListener("resize", fitted);
    socket.close();
    display.dispose();
  };
  of.stopTab = stop;
  of.closers.push(stop);
  display.onData((text) => send(STDIN, encoder.encode(text)));
  // Reports of the mouse are bytes, not text.
  display.onBinary((text) => send(STDIN, Uint8Array.from(text, (c) => c.charCodeAt(0))));
  display.onResize(({ cols, rows }) => send(RESIZE, encoder.encode(JSON.stringify({ Width: cols, Height: rows }))));
  let ended = false;
  socket.addEventListener("message", ({ data }) => {
    const [channel, payload] = [new Uint8Array(data)[0], new Uint8Array(data, 1)];
    if (channel === STDOUT || channel === STDERR) display.write(payload);
    if (channel === ERROR) {
      ended = true;
      display.write(`\r\n\x1b[2m${ending(payload)}\x1b[0m\r\n`);
    }
  });
  socket.addEventListener("close", () => {
    if (!ended) display.write("\r\n\x1b[2mThe connection ended.\x1b[0m\r\n");
  });
  display.focus();
}

async function refresh() {
  try {
    containers = (await ask("GET", "/v1/containers")).containers;
    notice("list", "");
    list();
  } catch (error) {
    notice("list", error.message);
  }
  if (session) setTimeout(refresh, EVERY_MS);
}

// Another link in a page that is open already changes nothing but this.
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#ticket=")) location.reload();
});
by("all").addEventListener("change", list);
try {
  await enter();
  await refresh();
} catch (error) {
  notice("list", error.message);
}
