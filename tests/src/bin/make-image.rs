//! Makes the named test images, or all of them with the registry's program, and prints where each is. Refuses to do more.

use cc_tests::images;

fn main() -> anyhow::Result<()> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        anyhow::bail!("which image? all, or of {}", images::ALL.join(", "));
    }
    if names.iter().any(|name| name == "all") {
        names = images::ALL.iter().map(|&name| name.to_owned()).collect();
        images::registry_program()?;
        images::containerd_program()?;
    }
    for name in &names {
        println!("{}", images::build(name)?.display());
    }
    Ok(())
}
