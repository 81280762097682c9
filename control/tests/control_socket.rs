//! The control socket against clients of every kind. C201, C202.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{CONNECTIONS, Fake, Folder, Running};
use postern_control::api::model::{BODY_MAX, CheckOutcome, ErrorBody, RulesProgram, Status};
use postern_control::api::server::{Limits, Server};
use postern_control::api::socket::SocketError;
use postern_control::cli::client::{Client, ClientError, Method};

/// Sends raw bytes and reads until the server closes; what it said.
fn talk(mut stream: UnixStream, bytes: &[u8]) -> String {
    // The server may close before it has taken everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the server does not close"),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request; status and body.
fn ask(running: &Running, method: &str, path: &str, body: &str) -> (u16, String) {
    split(&talk(running.connect(), request(method, path, body).as_bytes()))
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn healthy(running: &Running) {
    let (status, body) = ask(running, "GET", "/v1/status", "");
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<Status>(&body).unwrap().generation, 7);
}

fn quick() -> Limits {
    Limits {
        header_patience: Duration::from_millis(400),
        body_patience: Duration::from_millis(400),
        stall_patience: Duration::from_millis(400),
        ..Limits::default()
    }
}

#[test]
fn the_socket_is_for_its_owner_and_group_only() {
    let running = Running::with(Fake::default(), Limits::default(), Some(65_534));
    let meta = std::fs::symlink_metadata(&running.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o660);
    assert_eq!(meta.gid(), 65_534);
    assert_eq!(
        std::fs::read_dir(running.socket.parent().unwrap()).unwrap().count(),
        1,
        "no drafts"
    );
}

#[test]
fn a_second_instance_is_refused_and_the_first_lives_on() {
    let running = Running::new();
    let second = Server::open(&running.socket, None, Limits::default());
    assert!(matches!(second, Err(SocketError::InUse(_))), "{second:?}");
    healthy(&running);
}

#[test]
fn a_socket_nobody_listens_on_is_replaced_and_anything_else_is_left_alone() {
    let folder = Folder::new();
    let socket = folder.join("control.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    drop(Server::open(&socket, None, Limits::default()).unwrap());
    assert!(!socket.exists(), "removed at the end");

    std::fs::write(&socket, "precious").unwrap();
    let refused = Server::open(&socket, None, Limits::default());
    assert!(matches!(refused, Err(SocketError::NotASocket(_))), "{refused:?}");
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}

#[test]
fn a_successors_socket_is_not_removed() {
    let folder = Folder::new();
    let socket = folder.join("control.sock");
    let first = Server::open(&socket, None, Limits::default()).unwrap();
    std::fs::remove_file(&socket).unwrap();
    let second = Server::open(&socket, None, Limits::default()).unwrap();
    drop(first);
    assert!(socket.exists());
    drop(second);
    assert!(!socket.exists());
}

#[test]
fn every_documented_path_is_answered_and_every_error_is_json() {
    let running = Running::new();
    let (status, text) = ask(&running, "GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut listed = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            listed.push(format!("{} {path}", method.to_uppercase()));
            let (status, body) =
                ask(&running, &method.to_uppercase(), &path.replace("{id}", "x"), "");
            assert!(![404, 405, 500].contains(&status), "{method} {path}: {status} {body}");
            if status >= 400 {
                let error: ErrorBody = serde_json::from_str(&body).unwrap();
                assert!(!error.error.is_empty() && !error.detail.is_empty(), "{body}");
            }
        }
    }
    listed.sort();
    let all = [
        "DELETE /v1/connections",
        "DELETE /v1/connections/{id}",
        "DELETE /v1/forwards",
        "DELETE /v1/triggers",
        "GET /v1/connections",
        "GET /v1/connections/count",
        "GET /v1/connections/events",
        "GET /v1/connections/{id}",
        "GET /v1/drops",
        "GET /v1/expectations",
        "GET /v1/forwards",
        "GET /v1/mappings",
        "GET /v1/rules",
        "GET /v1/status",
        "GET /v1/triggers",
        "GET /v1/version",
        "PATCH /v1/connections",
        "PATCH /v1/connections/{id}",
        "POST /v1/config/check",
        "POST /v1/config/reload",
        "POST /v1/connections/flush",
        "POST /v1/forwards",
        "POST /v1/rules",
        "POST /v1/triggers",
    ];
    assert_eq!(listed, all);
    // Every schema referred to is there.
    for reference in text.match_indices("#/components/schemas/").map(|(at, found)| at + found.len())
    {
        let name = text[reference..].split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[test]
fn errors_have_their_status_and_kind() {
    let running = Running::new();
    let id = u64::MAX;
    for (method, path, body, status, kind) in [
        ("GET", "/", "", 404, "not_found"),
        ("GET", "/v2/status", "", 404, "not_found"),
        ("GET", "/v1/../../etc/passwd", "", 404, "not_found"),
        ("PUT", "/v1/status", "", 405, "method_not_allowed"),
        ("POST", "/v1/rules", "{", 400, "bad_request"),
        ("POST", "/v1/rules", "{\"family\":\"ipv5\"}", 400, "bad_request"),
        (
            "POST",
            "/v1/forwards",
            "{\"protocol\":\"tcp\",\"port\":\"1\",\"to\":\"a\",\"x\":1}",
            400,
            "bad_request",
        ),
        ("GET", "/v1/connections?src=nonsense", "", 400, "bad_request"),
        ("GET", "/v1/connections?unknown=1", "", 400, "bad_request"),
        ("DELETE", "/v1/connections", "", 400, "bad_request"),
        ("GET", &format!("/v1/connections/{id}"), "", 404, "not_found"),
        ("DELETE", "/v1/forwards?protocol=tcp&port=9", "", 404, "not_found"),
        ("DELETE", "/v1/triggers?protocol=udp&inbound=9", "", 404, "not_found"),
        ("GET", "/v1/connections/events?spot=80", "", 400, "bad_request"),
        ("GET", "/v1/connections/events?events=NEW,OLD", "", 400, "bad_request"),
        ("GET", "/v1/connections/events?events=NEW&src=x", "", 400, "bad_request"),
        ("PATCH", "/v1/connections", "{\"mark\":1}", 400, "bad_request"),
        ("PATCH", "/v1/connections?sport=1", "{}", 422, "invalid"),
        ("PATCH", "/v1/connections?sport=1", "{\"mask\":1}", 422, "invalid"),
        ("PATCH", "/v1/connections?sport=1", "{\"timeout_s\":864001}", 422, "invalid"),
        ("PATCH", &format!("/v1/connections/{id}"), "{\"timeout_s\":0}", 422, "invalid"),
        ("PATCH", &format!("/v1/connections/{id}"), "{\"timeout_s\":1}", 404, "not_found"),
        ("POST", "/v1/config/reload", "", 422, "invalid"),
    ] {
        let (got, text) = ask(&running, method, path, body);
        assert_eq!(got, status, "{method} {path}: {text}");
        let error: ErrorBody = serde_json::from_str(&text).unwrap();
        assert_eq!(error.error, kind, "{method} {path}: {text}");
        assert_eq!(error.faults.len(), usize::from(path.ends_with("reload")));
    }
}

/// C202: whatever bytes come, the server closes that connection and goes on.
#[test]
fn garbage_is_refused_and_nothing_else_happens() {
    let running = Running::with(Fake::default(), quick(), None);
    let mut noise = vec![0u8; 4096];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for byte in &mut noise {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (seed >> 33) as u8;
    }
    let long = format!("GET /v1/status HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let cases: [&[u8]; 14] = [
        b"",
        b"\r\n\r\n\r\n",
        b"\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/rules HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/rules HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/rules HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /v1/rules HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        &noise,
        long.as_bytes(),
        many.as_bytes(),
    ];
    for case in cases {
        let answer = talk(running.connect(), case);
        let shown = String::from_utf8_lossy(&case[..case.len().min(60)]).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{shown:?}: {answer:?}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{shown:?}: {answer:?}");
    }
    healthy(&running);
}

#[test]
fn a_panic_ends_its_own_connection_only() {
    let running = Running::new();
    let body = "{\"family\":\"ipv4\",\"program\":\"iptables\",\"args\":[\"panic\"]}";
    let answer = talk(running.connect(), request("POST", "/v1/rules", body).as_bytes());
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    healthy(&running);
}

#[test]
fn bodies_are_bounded_and_restores_may_be_larger() {
    let running = Running::new();
    let padded = |path: &str, bytes: usize| {
        let body = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes));
        ask(&running, "POST", path, &body).0
    };
    assert_eq!(padded("/v1/config/check", BODY_MAX - 100), 200);
    assert_eq!(padded("/v1/config/check", BODY_MAX + 100), 413);
    // The bound holds without a declared length, too.
    let mut chunked =
        "POST /v1/config/check HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned();
    for _ in 0..20 {
        chunked += &format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    }
    chunked += "0\r\n\r\n";
    assert_eq!(split(&talk(running.connect(), chunked.as_bytes())).0, 413);

    let restore = |bytes: usize| {
        let text = "x".repeat(bytes);
        let body = format!("{{\"family\":\"ipv4\",\"program\":\"restore\",\"stdin\":\"{text}\"}}");
        ask(&running, "POST", "/v1/rules", &body).0
    };
    assert_eq!(restore(16 << 20), 200);
    assert_eq!(restore((16 << 20) + 1), 413);
    assert_eq!(restore(24 << 20), 413);
    healthy(&running);
}

/// C205: by the socket for readers everything can be seen and nothing changed, whoever comes.
#[test]
fn who_may_only_look_changes_nothing() {
    let running = Running::with_readers(Fake::default(), Limits::default(), None, 65_534);
    let reading = running.reading();
    let meta = std::fs::symlink_metadata(&reading).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.gid()), (0o660, 65_534));
    let (_, text) = ask(&running, "GET", "/v1/openapi.json", "");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (mut looked, mut refused) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().map(|m| m.to_uppercase()) {
            let path = path.replace("{id}", "1152921504606846977");
            // One that would change something, where a body is needed.
            let body = match path.as_str() {
                "/v1/rules" => "{\"family\":\"ipv4\",\"program\":\"iptables\",\"args\":[\"-F\"]}",
                "/v1/forwards" => "{\"protocol\":\"tcp\",\"port\":\"80\",\"to\":\"192.168.1.9\"}",
                "/v1/triggers" => "{\"protocol\":\"udp\",\"outbound\":\"1\",\"inbound\":\"2\"}",
                path if method == "PATCH" && path.starts_with("/v1/connections") => "{\"mark\":1}",
                _ => "{\"text\":\"\"}",
            };
            let query = if path == "/v1/rules" { "?family=ipv4" } else { "" };
            let body = if method == "GET" { "" } else { body };
            let request = request(&method, &format!("{path}{query}"), body);
            let answer = talk(common::connect(&reading), request.as_bytes());
            let (status, text) = split(&answer);
            if method == "GET" {
                looked += 1;
                assert_eq!(status, 200, "{method} {path}: {text}");
            } else {
                refused += 1;
                assert_eq!(status, 403, "{method} {path}: {text}");
                let error: ErrorBody = serde_json::from_str(&text).unwrap();
                assert!(error.error == "forbidden" && error.detail.contains("only reading"));
            }
        }
    }
    assert_eq!((looked, refused), (12, 12), "every path, and /v1/rules both ways");
    assert!(running.fake.forwards.lock().unwrap().is_empty());
    assert!(running.fake.triggers.lock().unwrap().is_empty());
    assert!(running.fake.edits.lock().unwrap().is_empty());
    let asked = running.fake.rules.lock().unwrap();
    assert!(asked.iter().all(|request| request.program == RulesProgram::Save), "{asked:?}");
}

/// C205: readers have places of their own.
#[test]
fn a_crowd_of_readers_does_not_keep_out_who_has_to_act() {
    let running = Running::with_readers(Fake::default(), Limits::default(), None, 65_534);
    let crowd: Vec<_> =
        (0..200).filter_map(|_| UnixStream::connect(running.reading()).ok()).collect();
    healthy(&running);
    drop(crowd);
}

/// C202, C205: places for large bodies are for those who send one. Requests that announce a body and do not send
/// it, by either socket, keep nobody from the rules.
#[test]
fn requests_that_need_no_body_do_not_hold_up_the_rules() {
    let running = Running::with_readers(Fake::default(), Limits::default(), None, 65_534);
    let unfinished = |socket: &Path, method: &str| {
        let mut stream = common::connect(socket);
        let head = format!(
            "{method} /v1/rules?family=ipv4 HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push((400, unfinished(&running.reading(), "GET")));
        waiting.push((400, unfinished(&running.socket, "GET")));
        waiting.push((400, unfinished(&running.socket, "HEAD")));
        waiting.push((403, unfinished(&running.reading(), "POST")));
    }
    // Read to its end, in its time, and then refused.
    let deletes: Vec<_> = (0..4).map(|_| unfinished(&running.socket, "DELETE")).collect();
    let begin = Instant::now();
    let list = "{\"family\":\"ipv4\",\"program\":\"iptables\",\"args\":[\"-L\"]}";
    let (status, text) = ask(&running, "POST", "/v1/rules", list);
    assert_eq!(status, 200, "{text}");
    for (expected, mut stream) in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an orderly end");
        assert_eq!(split(&answer).0, expected, "{answer}");
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(deletes);
}

/// C202: a flush goes on to its end though whoever asked for it has left.
#[test]
fn a_client_that_leaves_does_not_leave_a_table_half_flushed() {
    let running = Running::new();
    let fake = &running.fake;
    let wait_for = |what: &AtomicBool| {
        let begin = Instant::now();
        while !what.load(Ordering::SeqCst) {
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    fake.flush_waits.store(true, Ordering::SeqCst);
    let mut stream = running.connect();
    stream.write_all(request("POST", "/v1/connections/flush", "").as_bytes()).unwrap();
    wait_for(&fake.flush_began);
    drop(stream);
    // The server has had time to see that.
    std::thread::sleep(Duration::from_millis(200));
    fake.flush_waits.store(false, Ordering::SeqCst);
    wait_for(&fake.flush_ended);
}

/// C202: one that writes to the end before it reads, as most do, is told as well; its own system must not
/// tell it of a broken pipe instead.
#[test]
fn whoever_sends_too_much_is_told_so() {
    let running = Running::new();
    let text = "x".repeat(8 * BODY_MAX);
    let whole = request("POST", "/v1/config/check", &format!("{{\"text\":\"{text}\"}}"));
    let mut stream = running.connect();
    stream.write_all(whole.as_bytes()).expect("all is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an orderly end");
    assert_eq!(split(&answer).0, 413);
    // Our own client.
    let client = Client::new(running.socket.clone()).unwrap();
    let body = serde_json::json!({ "text": text });
    let refused: Result<CheckOutcome, _> =
        client.call(Method::POST, "/v1/config/check", Some(&body));
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 413, .. }), "{refused}");
    // One that asks first, and one that threatens with more than anybody waits for, are told at once.
    for (length, expect) in [(8 * BODY_MAX, "expect: 100-continue\r\n"), (usize::MAX / 4, "")] {
        let head = format!(
            "POST /v1/config/check HTTP/1.1\r\nhost: x\r\n{expect}content-length: {length}\r\n\r\n"
        );
        let mut stream = running.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an orderly end");
        assert_eq!(split(&answer).0, 413, "{answer}");
    }
    healthy(&running);
}

/// C202: a client that sends a byte now and then is closed, and others do not notice.
#[test]
fn slow_requests_are_closed() {
    let running = Running::with(Fake::default(), quick(), None);
    let header = "GET /v1/status HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned() + &"y".repeat(1000);
    let body = request("POST", "/v1/config/check", &"z".repeat(1000));
    let body_from = body.find("zzz").unwrap();
    for (head, drip) in [("", header.as_str()), body.split_at(body_from)] {
        let mut stream = running.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let begin = Instant::now();
        let mut answer = [0; 12];
        let closed = drip.bytes().any(|byte| {
            healthy(&running);
            stream.write_all(&[byte]).is_err()
                || match stream.read(&mut answer) {
                    Ok(n) => n == 0 || &answer[9..12] == b"408",
                    Err(error) => error.kind() != ErrorKind::WouldBlock,
                }
        });
        assert!(closed, "the drip was taken to its end");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

#[test]
fn an_idle_connection_does_not_keep_its_place() {
    let running = Running::with(Fake::default(), quick(), None);
    let mut stream = running.connect();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed by the server");
    // Nor one that has asked something before.
    let mut stream = running.connect();
    stream.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// C202: 1000 connections at once: 64 are kept, the others told so, and the place is there again after.
#[test]
fn a_thousand_connections_leave_room_for_one_again() {
    let running = Running::new();
    let mut held: Vec<UnixStream> = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        match UnixStream::connect(&running.socket) {
            Ok(stream) => held.push(stream),
            Err(_) => refused += 1, // the kernel's own backlog is full
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut turned_away = 0;
    for stream in &mut held {
        stream.set_nonblocking(true).unwrap();
        let mut answer = Vec::new();
        if stream.read_to_end(&mut answer).is_ok() {
            let (status, body) = split(&String::from_utf8(answer).unwrap());
            assert_eq!(status, 503);
            assert_eq!(
                serde_json::from_str::<ErrorBody>(body.trim()).unwrap().error,
                "unavailable"
            );
            turned_away += 1;
        }
    }
    assert_eq!(held.len() - turned_away, 64, "{refused} refused, {turned_away} turned away");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !talk(running.connect(), request("GET", "/v1/version", "").as_bytes()).contains(" 200 ") {
        assert!(Instant::now() < deadline);
    }
    healthy(&running);
}

#[test]
fn a_listing_has_every_connection_once() {
    let running = Running::new();
    let answer = talk(running.connect(), b"GET /v1/connections HTTP/1.0\r\n\r\n");
    let (status, body) = split(&answer);
    assert_eq!(status, 200);
    let mut ids: Vec<String> = body
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len() as u64, CONNECTIONS);

    let one = talk(running.connect(), b"GET /v1/connections?sport=1034 HTTP/1.0\r\n\r\n");
    assert_eq!(split(&one).1.lines().count(), 1);
}

/// C202: what is not read is not fetched either; a client that stops reading is closed.
#[test]
fn a_listing_goes_as_fast_as_its_reader() {
    let fake = Fake { endless: true, ..Fake::default() };
    let running = Running::with(fake, quick(), None);
    let mut stream = running.connect();
    stream.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let fetched = running.fake.pages.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(1000));
    let later = running.fake.pages.load(Ordering::Relaxed);
    assert!(later < 40, "{fetched}, then {later} pages for a reader that reads nothing");
    // What was under way can still be read, then it ends.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.is_empty());
    healthy(&running);

    // One that does read gets as much as it likes.
    let mut stream = running.connect();
    stream.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 16];
    while taken < 8 << 20 {
        taken += stream.read(&mut buffer).unwrap();
    }
    healthy(&running);
}

#[test]
fn an_end_is_an_end_for_clients_too() {
    let fake = Fake { endless: true, ..Fake::default() };
    let running = Running::with(fake, Limits::default(), None);
    let mut stalled = running.connect();
    stalled.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let _idle = running.connect();
    let begin = Instant::now();
    drop(running);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
