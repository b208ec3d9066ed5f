//! A foreground run's outputs, input and exit code are the container's, and a refused tunnel closes at once: the binary
//! against a daemon that only speaks the contract. Refuses to need root.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::pin::Pin;
use std::process::{Command, Stdio};

use cc_common::api::fault::Fault;
use cc_common::api::v1::container_service_server::{ContainerService, ContainerServiceServer};
use cc_common::api::v1::run_input::Input;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::*;
use futures::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Fake;

fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not here"))
}

#[tonic::async_trait]
impl ContainerService for Fake {
    type RunStream = Answers<RunOutput>;
    type LogsStream = Answers<LogRecord>;
    type WaitStream = Answers<Exit>;
    type TunnelStream = Answers<TunnelData>;
    type ExecStream = Answers<RunOutput>;
    type AttachStream = Answers<RunOutput>;
    type CopyFromStream = Answers<CopyOutput>;

    /// Echoes stdin until its end, and exits with 42. For some commands, the daemon goes before the container does.
    async fn run(&self, request: Request<Streaming<RunInput>>) -> Result<Response<Self::RunStream>, Status> {
        let mut inputs = request.into_inner();
        let Some(Input::Start(start)) = inputs.message().await?.and_then(|message| message.input) else {
            return none();
        };
        let command = start.spec.unwrap_or_default().command.join(" ");
        if command == "nowhere" {
            let code = "container.not_found";
            return Err(Fault::new(Code::NotFound, code, "cannot run nowhere", "no such file").into());
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            let send = async |output| sender.send(Ok(RunOutput { output: Some(output) })).await.unwrap();
            send(Output::Created("c-1".into())).await;
            send(Output::Started(true)).await;
            match command.as_str() {
                "outlive crash" => return,
                "outlive stop" => {
                    let fault =
                        Fault::new(Code::Unavailable, "server.stopping", "the call was cut", "the daemon stops");
                    return sender.send(Err(fault.into())).await.unwrap();
                }
                _ => {}
            }
            while let Some(Input::Stdin(bytes)) = inputs.message().await.unwrap().and_then(|message| message.input) {
                send(Output::Stdout(bytes)).await;
            }
            send(Output::Stderr(b"to stderr".to_vec())).await;
            send(Output::Exit(Exit { id: "c-1".into(), code: 42, ..Default::default() })).await;
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn tunnel(&self, _: Request<Streaming<TunnelData>>) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Fault::new(Code::Unavailable, "tunnel.refused", "cannot reach c-1 port 80", "connection refused").into())
    }

    async fn exec(&self, _: Request<Streaming<RunInput>>) -> Result<Response<Self::ExecStream>, Status> {
        none()
    }
    async fn attach(&self, _: Request<Streaming<RunInput>>) -> Result<Response<Self::AttachStream>, Status> {
        none()
    }
    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn copy_to(&self, _: Request<Streaming<CopyInput>>) -> Result<Response<CopyDone>, Status> {
        none()
    }
    async fn copy_from(&self, _: Request<CopyFromRequest>) -> Result<Response<Self::CopyFromStream>, Status> {
        none()
    }
    async fn top(&self, _: Request<ContainerIds>) -> Result<Response<TopResponse>, Status> {
        none()
    }
    async fn start(&self, _: Request<ContainerIds>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn restart(&self, _: Request<StopRequest>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn list(&self, _: Request<ListContainersRequest>) -> Result<Response<ListContainersResponse>, Status> {
        none()
    }
    async fn get(&self, _: Request<ContainerIds>) -> Result<Response<ListContainersResponse>, Status> {
        none()
    }
    async fn metrics(&self, _: Request<ContainerIds>) -> Result<Response<MetricsResponse>, Status> {
        none()
    }
    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        none()
    }
    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn kill(&self, _: Request<KillRequest>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<ContainerIds>, Status> {
        none()
    }
    async fn set_groups(&self, _: Request<SetGroupsRequest>) -> Result<Response<Container>, Status> {
        none()
    }

    async fn publish(&self, _: Request<PublishRequest>) -> Result<Response<Container>, Status> {
        none()
    }

    async fn unpublish(&self, _: Request<PublishRequest>) -> Result<Response<Container>, Status> {
        none()
    }
    async fn wait(&self, _: Request<ContainerIds>) -> Result<Response<Self::WaitStream>, Status> {
        none()
    }
}

/// The fake daemon on a socket of its own, and a command that talks to it.
struct World {
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(dir.path().join("cc.sock")).unwrap()
        };
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let service = ContainerServiceServer::new(Fake);
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        World { dir, _runtime: runtime }
    }

    fn cc(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cc"));
        let url = format!("unix://{}", self.dir.path().join("cc.sock").display());
        command.args(args).env("CC_ENDPOINT_URL", url).env("HOME", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

#[test]
fn streams_and_exit_code_pass_through() {
    let world = World::new();
    let mut child = world.cc(&["run", "-i", "--image", "x", "cat"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"hello"[..], &b"to stderr"[..]));
    assert_eq!(output.status.code(), Some(42));
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let output = World::new().cc(&["run", "--image", "x", "nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: cannot run nowhere: no such file\n");
}

#[test]
fn a_container_that_outlives_its_daemon_is_where_to_follow_it() {
    let world = World::new();
    for (how, why) in [("crash", "the connection to it broke"), ("stop", "the daemon stops")] {
        let output = world.cc(&["run", "--image", "x", "outlive", how]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let text = String::from_utf8_lossy(&output.stderr);
        let expected = format!(
            "error: lost the daemon: container c-1 goes on without it ({why})\n\
             next: follow it when the daemon is back: cc logs -f c-1\n"
        );
        assert_eq!(text, expected);
    }
}

#[test]
fn a_refused_tunnel_closes_at_once_and_says_so() {
    let world = World::new();
    let args = ["local-remote", "serve", "--container-id", "c-1", "--container-port", "80", "--bind", "127.0.0.1:0"];
    let mut child = world.cc(&args).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();
    for _ in 0..2 {
        let read = std::net::TcpStream::connect(address).unwrap().read(&mut [0; 1]);
        assert!(matches!(&read, Ok(0)) || read.is_err(), "{read:?}");
    }
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text, "error: cannot reach c-1 port 80: connection refused\n", "once for both");
}
