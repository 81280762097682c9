//! The `postern` command against a server: what is printed, with which exit code, and for whom. C201.

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::{CONNECTIONS, Fake, Folder, Running};
use postern_control::api::event::ConnectionEdit;
use postern_control::api::model::RulesProgram;
use postern_control::api::server::Limits;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

fn postern(running: &Running, line: &str) -> Output {
    postern_with(running, line, "")
}

fn postern_with(running: &Running, line: &str, stdin: &str) -> Output {
    let mut child = Command::new(POSTERN)
        .arg("--control")
        .arg(&running.socket)
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", err(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", out(output)))
}

#[test]
fn iptables_works_as_typed() {
    let running = Running::new();
    let line = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";
    let done = postern(&running, line);
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    assert_eq!(
        out(&done),
        "iptables [\"-A\", \"INPUT\", \"-m\", \"conntrack\", \"--ctstate\", \"ESTABLISHED,RELATED\", \"-j\", \"ACCEPT\"] 0\n"
    );
    assert_eq!(err(&done), "warning\n");
    assert_eq!(postern(&running, "iptables refuse").status.code(), Some(2), "the tool's own code");
}

#[test]
fn a_restore_takes_its_text_from_standard_input_or_from_a_file_of_the_callers() {
    let running = Running::new();
    let text = "*filter\nCOMMIT\n";
    let file = running.folder.join("rules.v4");
    std::fs::write(&file, text).unwrap();
    assert!(postern_with(&running, "iptables-restore -n", text).status.success());
    assert!(postern(&running, &format!("ip6tables-restore {}", file.display())).status.success());
    let missing = postern(&running, "iptables-restore /nowhere");
    assert_eq!(missing.status.code(), Some(1));
    let save = running.folder.join("saved");
    assert!(postern(&running, &format!("iptables-save -f {}", save.display())).status.success());
    assert_eq!(std::fs::read_to_string(save).unwrap(), "iptables-save [] 0\n");

    let rules = running.fake.rules.lock().unwrap();
    assert_eq!(rules.len(), 3);
    for (request, args) in rules.iter().zip([&["-n"][..], &[]]) {
        assert_eq!(request.program, RulesProgram::Restore);
        assert_eq!(request.stdin.as_deref(), Some(text));
        assert_eq!(request.args, args);
    }
}

#[test]
fn connections_are_listed_counted_and_deleted() {
    let running = Running::new();
    let list = postern(&running, "conntrack list --sport 1024 -o id");
    assert_eq!(
        out(&list),
        "tcp      6 7440 ESTABLISHED src=192.168.1.2 dst=192.0.2.9 sport=1024 dport=443 src=192.0.2.9 dst=192.168.1.2 sport=443 dport=1024 [ASSURED] mark=0 use=1 id=1152921504606846976\n"
    );
    assert_eq!(err(&list), "postern: 1 connections have been shown.\n");
    let all = json(&postern(&running, "conntrack list --json"));
    assert_eq!(all.as_array().unwrap().len() as u64, CONNECTIONS);
    assert_eq!(all[3]["original_ingress"], "lan");
    assert_eq!(json(&postern(&running, "--json conntrack list -p udp")), serde_json::json!([]));

    let one = json(&postern(&running, "conntrack get 1152921504606846977 --json"));
    assert_eq!(one["original"]["sport"], 1025);
    assert!(out(&postern(&running, "conntrack get --sport 1026")).contains("sport=1026"));
    assert_eq!(postern(&running, "conntrack get -p tcp").status.code(), Some(1), "many");
    assert_eq!(postern(&running, "conntrack get").status.code(), Some(2));
    assert_eq!(postern(&running, "conntrack get 5").status.code(), Some(1));

    assert_eq!(out(&postern(&running, "conntrack count")), format!("{CONNECTIONS}\n"));
    for (line, code) in [
        ("conntrack delete -p tcp", 0),
        ("conntrack delete -p udp", 1),
        ("conntrack delete", 2),
        ("conntrack delete 1152921504606846977", 0),
        ("conntrack delete 7", 1),
        ("conntrack delete 1152921504606846977 -p tcp", 2),
        ("conntrack delete -s 1.2.3.4/33", 2),
        ("conntrack flush", 0),
    ] {
        assert_eq!(postern(&running, line).status.code(), Some(code), "{line}");
    }
}

#[test]
fn connections_are_updated_by_id_or_by_filter() {
    let running = Running::new();
    for (line, code, updated) in [
        ("conntrack update -p tcp --mark 0x10/0xff", 0, "1000"),
        ("conntrack update -p tcp --sport 1024 --timeout 60 -m 5", 0, "1"),
        ("conntrack update 1152921504606846977 --timeout 60", 0, "1"),
        ("conntrack -U -p udp -m 5", 1, "0"),
        ("conntrack update 7 -m 5", 1, ""),
        ("conntrack update -p tcp", 2, ""),
        ("conntrack update -m 5", 2, ""),
        ("conntrack update 1152921504606846977 -p tcp -m 5", 2, ""),
        ("conntrack update -p tcp -m five", 2, ""),
        ("conntrack update -p tcp --timeout 864001", 2, ""),
        ("conntrack update -p tcp --timeout 0", 2, ""),
    ] {
        let done = postern(&running, line);
        assert_eq!(done.status.code(), Some(code), "{line}: {}", err(&done));
        if !updated.is_empty() {
            let said = format!("postern: {updated} connections have been updated.\n");
            assert_eq!(err(&done), said, "{line}");
        }
    }
    let edits = running.fake.edits.lock().unwrap();
    let edit = |mark, mask, timeout_s| ConnectionEdit { mark, mask, timeout_s };
    assert_eq!(edits[0], edit(Some(0x10), Some(0xff), None));
    assert!(edits.contains(&edit(Some(5), Some(u32::MAX), Some(60))));
    assert!(edits.contains(&edit(None, None, Some(60))));
}

#[test]
fn events_are_printed_as_conntrack_prints_them() {
    let running = Running::new();
    let tuples = "src=192.168.1.2 dst=192.0.2.9 sport=1031 dport=443";
    let reply = "src=192.0.2.9 dst=192.168.1.2 sport=443 dport=1031";
    let (new, update, destroy) = (
        format!("    [NEW] tcp      6 240 SYN_SENT {tuples} [UNREPLIED] {reply}\n"),
        format!(" [UPDATE] tcp      6 7440 ESTABLISHED {tuples} {reply} [ASSURED]\n"),
        format!(
            "[DESTROY] tcp      6 ESTABLISHED {tuples} packets=3 bytes=164 {reply} packets=3 bytes=164 [ASSURED] mark=5"
        ),
    );
    let all = postern(&running, "conntrack events --sport 1031");
    assert_eq!(out(&all), format!("{new}{update}{destroy}\n"));
    assert_eq!(
        err(&all),
        "postern: 12 events were missed: list the table again\npostern: the appliance stops\n"
    );
    assert_eq!(all.status.code(), Some(1), "it ended, and nobody told it to");
    let ends = out(&postern(&running, "conntrack -E -e DESTROY -o timestamp,reason,id"));
    assert_eq!(
        ends,
        format!("[1795462316.001000]\t{destroy} reason=timeout id=1152921504606846983\n")
    );
    let first = postern(&running, "conntrack events --json -e NEW,UPDATE");
    let first: Vec<serde_json::Value> =
        out(&first).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        first.iter().map(|e| &e["event"]).collect::<Vec<_>>(),
        ["new", "update", "new", "overrun"]
    );
    assert_eq!(first[0]["connection"]["state"], "SYN_SENT");
    assert_eq!(first[3]["missed"], 12);
    let end = out(&postern(&running, "conntrack events --json -e DESTROY"));
    let end: serde_json::Value = serde_json::from_str(end.lines().next().unwrap()).unwrap();
    assert_eq!((&end["reason"], &end["duration_ms"]), (&"timeout".into(), &9001.into()));
    assert_eq!(end["connection"]["original"]["bytes"], 164);
    for line in ["conntrack events -e NEWS", "conntrack events -s x", "conntrack events -o colour"]
    {
        assert_eq!(postern(&running, line).status.code(), Some(2), "{line}");
    }
}

#[test]
fn expectations_are_printed_as_conntrack_prints_them() {
    let running = Running::new();
    let listed = postern(&running, "conntrack expect");
    assert_eq!(
        out(&listed),
        "297 proto=6 src=192.0.2.9 dst=203.0.113.2 sport=0 dport=50012 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.1.2 master-dst=192.0.2.9 sport=1031 dport=443 class=0 helper=ftp\n"
    );
    assert_eq!(err(&listed), "postern: 1 expectations have been shown.\n");
    assert_eq!(json(&postern(&running, "conntrack expect --json"))[0]["to"], "192.168.1.2");
}

#[test]
fn mappings_are_listed() {
    let running = Running::new();
    let listed = postern(&running, "conntrack mappings");
    assert_eq!(
        out(&listed),
        "udp inside=192.168.1.2:5000 external=203.0.113.2:5002 connections=2 [OPEN]\n\
         tcp inside=192.168.1.2:5000 external=203.0.113.2:5002 connections=0 timeout=287\n"
    );
    assert_eq!(err(&listed), "postern: 2 mappings have been shown.\n");
    let json = json(&postern(&running, "conntrack mappings --json"));
    assert_eq!((&json[0]["open"], &json[1]["timeout_s"]), (&true.into(), &287.into()));
}

#[test]
fn triggers_are_added_listed_and_removed() {
    let running = Running::new();
    let added = postern(&running, "trigger add udp 6112 6113-6115 --timeout 90s");
    assert_eq!(out(&added), "added wan udp 6112 opens 6113-6115\n");
    let list = out(&postern(&running, "trigger list"));
    assert_eq!(
        list,
        "wan  udp  6112  -> 6113-6115  open to 192.168.1.2 for 59s  (until the next start)\n"
    );
    assert_eq!(json(&postern(&running, "trigger list --json"))[0]["timeout_s"], 90);
    for line in
        ["trigger add udp 6112", "trigger add udp 1 2 --timeout 1500ms", "trigger remove udp"]
    {
        assert_eq!(postern(&running, line).status.code(), Some(2), "{line}");
    }
    let gone = postern(&running, "trigger remove udp 6113-6115");
    assert_eq!(out(&gone), "removed wan udp 6112 opens 6113-6115\n");
    assert_eq!(postern(&running, "trigger remove udp 6113-6115").status.code(), Some(1));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let running = Running::with(Fake { endless: true, ..Fake::default() }, Limits::default(), None);
    let pipe =
        format!("{POSTERN} --control {} conntrack list | head -n 2", running.socket.display());
    let done = Command::new("bash").args(["-o", "pipefail", "-c", &pipe]).output().unwrap();
    assert_eq!(out(&done).lines().count(), 2);
    assert_eq!((done.status.code(), err(&done).as_str()), (Some(0), ""));
    let pipe = pipe.replace("list", "events");
    let done = Command::new("bash").args(["-o", "pipefail", "-c", &pipe]).output().unwrap();
    assert_eq!(out(&done).lines().count(), 2);
    assert_eq!((done.status.code(), err(&done).as_str()), (Some(0), ""));
}

#[test]
fn forwards_are_added_listed_and_removed() {
    let running = Running::new();
    let add = "forward add --interface wan --protocol tcp --port 8080 --to 192.168.1.10:80";
    assert_eq!(out(&postern(&running, add)), "added wan tcp 8080 -> 192.168.1.10:80\n");
    let again = postern(&running, "forward add tcp 8080 192.168.1.11:80");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(err(&again), "postern: overlaps the forward there\n");
    let list = out(&postern(&running, "forward list"));
    assert_eq!(list, "wan  tcp  8080  -> 192.168.1.10:80  (until the next start)\n");
    assert_eq!(json(&postern(&running, "forward list --json"))[0]["to"], "192.168.1.10:80");
    assert!(postern(&running, "forward remove tcp 8080").status.success());
    assert_eq!(postern(&running, "forward remove tcp 8080").status.code(), Some(1));
}

#[test]
fn status_drops_and_version_are_printed_as_text_and_as_json() {
    let running = Running::new();
    assert!(
        out(&postern(&running, "status")).starts_with("postern 0.1.0, up 00:00:00, generation 7")
    );
    assert_eq!(json(&postern(&running, "status --json"))["generation"], 7);
    assert_eq!(out(&postern(&running, "drops")), "  3  denied_by_rule  a rule said DROP\n");
    assert!(out(&postern(&running, "drops --all")).lines().count() > 20);
    assert_eq!(json(&postern(&running, "drops --json"))["total"], 3);
    assert!(out(&postern(&running, "version")).starts_with("postern "));
    assert_eq!(json(&postern(&running, "api"))["info"]["title"], "Postern control API");
}

#[test]
fn a_refused_reload_shows_the_faults() {
    let running = Running::new();
    let reload = postern(&running, "reload");
    assert_eq!(reload.status.code(), Some(1));
    assert!(err(&reload).ends_with("postern.toml:3:7: no interfaces\n"), "{}", err(&reload));
}

#[test]
fn nobody_at_home_is_said_plainly() {
    let folder = Folder::new();
    let status = Command::new(POSTERN)
        .arg("--control")
        .arg(folder.join("nothing.sock"))
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(err(&status).contains("no appliance answers at"), "{}", err(&status));
}

/// C201: the credentials count, not only the file's mode. Needs root, to become somebody else.
#[test]
fn another_user_is_refused_and_a_member_of_the_group_is_not() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    const GROUP: u32 = 61_234;
    let running = Running::with(Fake::default(), Limits::default(), Some(GROUP));
    // Where another user can reach it.
    let program: PathBuf = running.folder.join("postern");
    // By another process: one of ours that forks meanwhile would hold it open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(POSTERN).arg(&program).status().unwrap().success());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_user = |groups: &str, line: &str| {
        Command::new("setpriv")
            .args(["--reuid=61233", "--regid=61233", groups, "--"])
            .arg(&program)
            .arg("--control")
            .arg(&running.socket)
            .args(line.split_whitespace())
            .output()
            .unwrap()
    };
    let stranger = as_user("--clear-groups", "status");
    assert_eq!(stranger.status.code(), Some(1));
    assert!(err(&stranger).contains("permission denied"), "by the mode: {}", err(&stranger));

    std::fs::set_permissions(&running.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    for line in ["status", "conntrack flush", "iptables -F"] {
        let stranger = as_user("--clear-groups", line);
        assert_eq!(stranger.status.code(), Some(1), "{line}");
        assert!(err(&stranger).contains("only root and members"), "{line}: {}", err(&stranger));
    }
    assert!(running.fake.rules.lock().unwrap().is_empty());
    std::fs::set_permissions(&running.socket, std::fs::Permissions::from_mode(0o660)).unwrap();
    let member = as_user(&format!("--groups={GROUP}"), "status");
    assert_eq!(member.status.code(), Some(0), "{}", err(&member));
    let groups: Vec<_> = (62_000..62_100).chain([GROUP]).map(|gid: u32| gid.to_string()).collect();
    let member = as_user(&format!("--groups={}", groups.join(",")), "status");
    assert_eq!(member.status.code(), Some(0), "one of many groups: {}", err(&member));
}

/// C205: a member of the group for readers sees everything and changes nothing. Needs root, as above.
#[test]
fn a_member_of_the_group_for_readers_may_look_only() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    const READERS: u32 = 61_235;
    let running = Running::with_readers(Fake::default(), Limits::default(), Some(61_234), READERS);
    let program: PathBuf = running.folder.join("postern");
    // By another process: one of ours that forks meanwhile would hold it open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(POSTERN).arg(&program).status().unwrap().success());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_member_of = |groups: &str, socket: &PathBuf, line: &str| {
        Command::new("setpriv")
            .args(["--reuid=61233", "--regid=61233", groups, "--"])
            .arg(&program)
            .arg("--control")
            .arg(socket)
            .args(line.split_whitespace())
            .output()
            .unwrap()
    };
    let readers = format!("--groups={READERS}");
    for line in [
        "status",
        "drops",
        "conntrack list",
        "conntrack count",
        "forward list",
        "iptables-save -c",
        "ip6tables-save",
    ] {
        let looked = as_member_of(&readers, &running.socket, line);
        assert_eq!(looked.status.code(), Some(0), "{line}: {}", err(&looked));
    }
    for line in ["conntrack flush", "iptables -F", "forward add tcp 80 192.168.1.9", "reload"] {
        let refused = as_member_of(&readers, &running.socket, line);
        assert_eq!(refused.status.code(), Some(1), "{line}");
        assert!(err(&refused).contains("you may look but not change"), "{line}: {}", err(&refused));
    }
    assert!(running.fake.forwards.lock().unwrap().is_empty());
    // Whoever may change may come by that door, too, but changes nothing there.
    let admin = as_member_of("--groups=61234", &running.socket, "iptables -F");
    assert_eq!(admin.status.code(), Some(0), "{}", err(&admin));
    // Strangers see nothing: not by the mode, nor, were that wrong, by their credentials.
    let stranger = as_member_of("--clear-groups", &running.socket, "status");
    assert!(err(&stranger).contains("permission denied"), "{}", err(&stranger));
    let reading = running.reading();
    std::fs::set_permissions(&reading, std::fs::Permissions::from_mode(0o666)).unwrap();
    let stranger = as_member_of("--clear-groups", &running.socket, "status");
    assert!(err(&stranger).contains("only root and members"), "{}", err(&stranger));
}
