//! Promise: a sandbox is reached like a machine next to you, with nothing set up in it: ssh, and published ports.

use e2e::{World, needs};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn ssh_reaches_a_guest_that_has_no_sshd_and_no_network() {
    let test = "ssh_reaches_a_guest_that_has_no_sshd_and_no_network";
    if !needs::qemu(test) || !needs::program("ssh", test) {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "web", "--image", "tiny", "--nat", "off"]).ok();
    let ran = world.banger(&["vm", "ssh", "web", "--", "hostname; echo err >&2; exit 42"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (42, "web\n"), "{ran:?}");
    assert!(ran.stderr.contains("err"), "{ran:?}");
    // The stanza that `ssh-config --install` includes, given to ssh by hand: this home is not the person's.
    let printed = world.banger(&["ssh-config", "--print"]).ok().stdout;
    let config = world.path().join("ssh_config");
    std::fs::write(&config, printed).expect("the config can be written");
    let mut ssh = std::process::Command::new("ssh");
    world.environment(&mut ssh);
    let binaries = e2e::world::binary("banger").parent().expect("a binary lies in a folder").to_path_buf();
    let path = std::env::var("PATH").unwrap_or_default();
    ssh.env("PATH", format!("{}:{path}", binaries.display()));
    ssh.arg("-F").arg(&config).args(["web.vm", "cat /proc/sys/kernel/hostname"]);
    let output = ssh.output().expect("ssh runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_published_port_leads_to_the_guests_loopback_and_ends_with_it() {
    if !needs::qemu("a_published_port_leads_to_the_guests_loopback_and_ends_with_it") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "web", "--image", "tiny", "-p", "0:8000"]).ok();
    let serve = "mkdir -p /srv && echo hello > /srv/index.html && httpd -p 127.0.0.1:8000 -h /srv";
    world.banger(&["vm", "exec", "web", "--", "sh", "-c", serve]).ok();
    let bound = world.vm("web")["ports"][0].as_str().expect("the port is published").to_owned();
    let address: Vec<&str> = bound.rsplitn(2, ':').collect();
    assert_eq!(get(address[1]).expect("the port answers").lines().last(), Some("hello"));
    world.banger(&["vm", "stop", "web"]).ok();
    assert!(TcpStream::connect(address[1]).is_err(), "the port outlived its sandbox");
}

fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
