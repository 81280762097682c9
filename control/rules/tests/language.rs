//! What the programs print and refuse, without root. Golden output is what iptables 1.8.9 (nft) printed for the same commands.

use postern_core::rules::{Family, Hook};
use postern_rules::{
    Counts, InterfaceRole, Output, RestoreOptions, Rulesets, builtin, execute, execute_restore,
    execute_save, restore,
};
use proptest::prelude::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn run(rulesets: &mut Rulesets, line: &str) -> Output {
    execute(Family::V4, &words(line), rulesets, Counts::default)
}

fn shown(rulesets: &mut Rulesets, line: &str) -> String {
    let output = run(rulesets, line);
    assert_eq!(output.code, 0, "{line}: {}", output.stderr);
    output.stdout
}

/// Runs every line; each must succeed.
fn after(lines: &str) -> Rulesets {
    let mut rulesets = Rulesets::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        shown(&mut rulesets, line);
    }
    rulesets
}

/// C186: a timeout policy is one of the configuration's; what `CT` has not is refused by name.
#[test]
fn a_connection_tracking_target_is_said_saved_and_refused() {
    let mut rules = Rulesets::new();
    let refused = |rules: &mut Rulesets, options: &str, hint: &str| {
        let output = run(rules, &format!("-t raw -A PREROUTING -p tcp -j CT {options}"));
        assert_ne!(output.code, 0, "{options}");
        assert!(output.stderr.contains(hint), "{options}: {}", output.stderr);
    };
    refused(&mut rules, "--timeout quick", "there is no timeout policy `quick'");
    rules.set_timeout_policies(&["slow", "quick"]);
    let line = "-A PREROUTING -p tcp -j CT --helper ftp --timeout quick --zone-orig 7\n";
    let typed = "-t raw -A PREROUTING -p tcp -j CT --zone-orig 7 --timeout quick --helper ftp";
    shown(&mut rules, typed);
    let dump = shown(&mut rules, "-t raw -S");
    assert!(dump.ends_with(line), "{dump}");
    let listing = shown(&mut rules, "-t raw -nL PREROUTING");
    assert!(listing.ends_with(" CT helper ftp timeout quick zone-orig 7\n"), "{listing}");
    refused(&mut rules, "--timeout quick --timeout slow", "can only be used once");
    refused(&mut rules, "--zone mark", "packets have no mark here");
    refused(&mut rules, "--ctevents new", "postern conntrack events");
    refused(&mut rules, "--expevents new", "expectations have no events");
    refused(&mut rules, "--helper smtp", "ftp, irc, tftp");
    refused(&mut rules, "--helper tftp", "the helper tftp needs -p udp");

    // What a rule names may not go.
    assert!(rules.check_timeout_policies().is_ok());
    rules.set_timeout_policies(&["slow"]);
    let error = rules.check_timeout_policies().unwrap_err();
    assert!(error.message().contains("`quick'"), "{error}");
}

/// C186: no policy gets the number of another one whose connections may live on, while there are numbers.
#[test]
fn a_timeout_policy_keeps_its_number() {
    let mut rules = Rulesets::new();
    rules.set_timeout_policies(&["a", "b"]);
    let numbers =
        |rules: &Rulesets| ["a", "b", "c"].map(|name| rules.timeout_policy(name).map(|id| id.0));
    assert_eq!(numbers(&rules), [Some(1), Some(2), None]);
    rules.set_timeout_policies(&["b", "c"]);
    assert_eq!(numbers(&rules), [None, Some(2), Some(3)]);
    rules.set_timeout_policies(&["c", "a", "b"]);
    assert_eq!(numbers(&rules), [Some(1), Some(2), Some(3)]);
    let many: Vec<_> = (0..13).map(|number| format!("n{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    rules.set_timeout_policies(&many);
    // Only when there are no others is one taken that was another's.
    assert_eq!(rules.timeout_policy("n11").map(|id| id.0), Some(15));
    assert_eq!(rules.timeout_policy("n12").map(|id| id.0), Some(1));
    assert_eq!(rules.timeout_policies().flatten().count(), 13);
}

#[test]
fn the_line_everybody_types_works_as_typed() {
    let mut rules =
        after("-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-P INPUT DROP");
    assert_eq!(
        shown(&mut rules, "-L INPUT -n"),
        "Chain INPUT (policy DROP)\n\
         target     prot opt source               destination         \n\
         ACCEPT     0    --  0.0.0.0/0            0.0.0.0/0            ctstate RELATED,ESTABLISHED\n"
    );
    assert_eq!(
        shown(&mut rules, "-S INPUT"),
        "-P INPUT DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
    );
}

#[test]
fn a_verbose_listing_has_iptables_columns() {
    let mut rules = after(
        "-N web
         -A INPUT -i eth+ -p tcp --dport 22:24 -c 123456 99999 -j web
         -A INPUT ! -i lan ! -s 10.0.0.0/8 -p icmp --icmp-type 3/4 -j REJECT
         -A web -p tcp -m multiport ! --sports 80,443 -m comment --comment hi -j RETURN",
    );
    assert_eq!(
        shown(&mut rules, "-nvL --line-numbers"),
        "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)
num   pkts bytes target     prot opt in     out     source               destination         
1     123K 99999 web        6    --  eth+   *       0.0.0.0/0            0.0.0.0/0            tcp dpts:22:24
2        0     0 REJECT     1    --  !lan   *      !10.0.0.0/8           0.0.0.0/0            icmptype 3 code 4 reject-with icmp-port-unreachable

Chain FORWARD (policy ACCEPT 0 packets, 0 bytes)
num   pkts bytes target     prot opt in     out     source               destination         

Chain OUTPUT (policy ACCEPT 0 packets, 0 bytes)
num   pkts bytes target     prot opt in     out     source               destination         

Chain web (1 references)
num   pkts bytes target     prot opt in     out     source               destination         
1        0     0 RETURN     6    --  *      *       0.0.0.0/0            0.0.0.0/0            multiport sports  !80,443 /* hi */
"
    );
    assert_eq!(
        shown(&mut rules, "-L web -v -x"),
        "Chain web (1 references)
    pkts      bytes target     prot opt in     out     source               destination         
       0        0 RETURN     tcp  --  any    any     anywhere             anywhere             multiport sports  !http,https /* hi */
"
    );
}

#[test]
fn refusals_use_iptables_words_and_exit_codes_and_change_nothing() {
    let mut rules = after(
        "-N a
         -N full
         -A INPUT -j a
         -A full -j ACCEPT
         -A INPUT -s 192.0.2.1 -j DROP",
    );
    let before = rules.clone();
    for (line, code, message) in [
        ("-A nosuch -j ACCEPT", 1, "iptables: No chain/target/match by that name.\n"),
        ("-A INPUT -j nosuch", 1, "iptables: No chain/target/match by that name.\n"),
        ("-L nosuch", 1, "iptables: No chain/target/match by that name.\n"),
        (
            "-D INPUT -j DROP",
            1,
            "iptables: Bad rule (does a matching rule exist in that chain?).\n",
        ),
        (
            "-C INPUT -j DROP",
            1,
            "iptables: Bad rule (does a matching rule exist in that chain?).\n",
        ),
        ("-X a", 1, "iptables: Too many links.\n"),
        ("-X full", 1, "iptables: Directory not empty.\n"),
        ("-X", 1, "iptables: Too many links.\n"),
        ("-N a", 1, "iptables: Chain already exists.\n"),
        ("-E a full", 1, "iptables: File exists.\n"),
        ("-P a DROP", 1, "iptables: Bad built-in chain name.\n"),
        ("-P INPUT REJECT", 1, "iptables: Bad policy name. Run `dmesg' for more information.\n"),
        ("-D INPUT 9", 1, "iptables: Index of deletion too big.\n"),
        ("-I INPUT 9 -j DROP", 1, "iptables: Index of insertion too big.\n"),
        ("-R INPUT 9 -j DROP", 1, "iptables: Index of replacement too big.\n"),
        ("-A a -j a", 1, "iptables: Too many levels of symbolic links.\n"),
        ("", 2, "iptables v0.1.0 (postern): no command specified\n"),
        ("-A INPUT --dport 80", 2, "iptables v0.1.0 (postern): unknown option \"--dport\"\n"),
        (
            "-A INPUT -p tcp --dport x",
            2,
            "iptables v0.1.0 (postern): invalid port/service `x' specified\n",
        ),
        (
            "-t mangle -A POSTROUTING -j ACCEPT",
            2,
            "iptables v0.1.0 (postern): table `mangle' is not supported yet\n",
        ),
        ("-t mangle -L", 2, "iptables v0.1.0 (postern): table `mangle' is not supported yet\n"),
        (
            "-A INPUT -m limit --limit 5/s",
            2,
            "iptables v0.1.0 (postern): match `limit' is not supported yet\n",
        ),
        (
            "-A INPUT -j LOG --log-prefix x",
            2,
            "iptables v0.1.0 (postern): target `LOG' is not supported yet\n",
        ),
        (
            "-A INPUT -m conntrack --ctproto 6",
            2,
            "iptables v0.1.0 (postern): option \"--ctproto\" is not supported yet\n",
        ),
        ("-A INPUT -f", 2, "iptables v0.1.0 (postern): option \"-f\" is not supported yet\n"),
        ("-A INPUT -g a", 2, "iptables v0.1.0 (postern): option \"-g\" is not supported yet\n"),
        ("-A INPUT -m tcp --dport 1", 2, "iptables v0.1.0 (postern): match `tcp' needs -p tcp\n"),
        (
            "-A INPUT -j REJECT --reject-with tcp-reset",
            2,
            "iptables v0.1.0 (postern): REJECT: --reject-with tcp-reset needs -p tcp\n",
        ),
        (
            "-A INPUT -s 2001:db8::1",
            2,
            "iptables v0.1.0 (postern): host/network `2001:db8::1' not found\nhint: this is an IPv6",
        ),
        (
            "-A INPUT -s www.example.org",
            2,
            "iptables v0.1.0 (postern): host/network `www.example.org' not found\nhint: names are",
        ),
    ] {
        let output = run(&mut rules, line);
        assert_eq!(output.code, code, "{line}: {}", output.stderr);
        assert!(output.stderr.starts_with(message), "{line}: {}", output.stderr);
        assert!(!output.changed && output.stdout.is_empty());
        assert_eq!(rules, before, "{line}");
    }
}

#[test]
fn dashes_quotes_and_spaces_from_a_web_page_are_named_and_mended() {
    let mut rules = Rulesets::new();
    let wrong =
        ["-A", "INPUT", "\u{2013}m", "conntrack", "\u{2013}ctstate", "NEW", "\u{2014}j", "DROP"];
    let args: Vec<String> = wrong.iter().map(|&word| word.to_owned()).collect();
    let output = execute(Family::V4, &args, &mut rules, Counts::default);
    assert_eq!(output.code, 2);
    assert_eq!(
        output.stderr,
        "iptables v0.1.0 (postern): an en dash (U+2013) in `\u{2013}m', as copied from a web page or document\n\
         hint: in plain ASCII: iptables -A INPUT -m conntrack --ctstate NEW -j DROP\n\
         Try `iptables -h' or 'iptables --help' for more information.\n"
    );
    for (token, ascii) in [
        ("-A\u{a0}INPUT", "-A INPUT"),
        ("\u{201c}INPUT\u{201d}", "\"INPUT\""),
        ("-\u{2013}dport", "--dport"),
        ("\u{2013}nvL", "-nvL"),
        ("\u{2212}j", "-j"),
        ("\u{200b}INPUT", "INPUT"),
    ] {
        let output = execute(Family::V4, &[token.to_owned()], &mut rules, Counts::default);
        let hint = format!("hint: in plain ASCII: iptables {ascii}\n");
        assert!(output.stderr.contains(&hint), "{token}: {}", output.stderr);
    }
    let comment = words("-A INPUT -m comment --comment \u{2013}caf\u{e9}\u{2013} -j DROP");
    assert_eq!(execute(Family::V4, &comment, &mut rules, Counts::default).code, 0);
}

#[test]
fn nothing_printed_can_pass_for_another_line() {
    let mut rules = Rulesets::new();
    let comment = |text: &str| {
        let mut args = words("-A INPUT -m comment --comment");
        args.push(text.to_owned());
        args
    };
    for bad in ["a\n-P INPUT ACCEPT", "\x1b[2J", "a\rb", "\u{202e}x", "a\0b", "a\u{2028}b"] {
        let output = execute(Family::V4, &comment(bad), &mut rules, Counts::default);
        assert_eq!(output.code, 2, "{bad:?}");
        assert!(!output.stderr.contains(bad));
        for args in [vec!["-N".to_owned(), bad.to_owned()], vec![bad.to_owned()]] {
            let output = execute(Family::V4, &args, &mut rules, Counts::default);
            assert_eq!(output.code, 2, "{bad:?}");
            assert!(!output.stderr.contains(bad), "{:?}", output.stderr);
        }
    }
    let quotes = "\" -j DROP ' \\ $(x) `y` */";
    assert_eq!(execute(Family::V4, &comment(quotes), &mut rules, Counts::default).code, 0);
    let saved = execute_save(Family::V4, &[], &rules, Counts::default).stdout;
    let mut again = Rulesets::new();
    restore(&saved, Family::V4, RestoreOptions::default(), &mut again, &Counts::default())
        .expect("our own dump");
    assert_eq!(execute_save(Family::V4, &[], &again, Counts::default).stdout, saved);
}

// --- dumps ----------------------------------------------------------------------------------------

fn refuse(dump: &str) -> String {
    let mut rules = after("-A INPUT -s 192.0.2.1 -j DROP");
    let before = rules.clone();
    let options = RestoreOptions::default();
    let error = restore(dump, Family::V4, options, &mut rules, &Counts::default());
    assert_eq!(rules, before, "a refused dump changes nothing");
    error.expect_err("it is wrong").to_string()
}

#[test]
fn a_wrong_dump_is_refused_with_line_column_and_token() {
    let long = format!("*filter\n-A INPUT -s {}\nCOMMIT\n", "1".repeat(10_000_000));
    for (dump, message) in [
        ("foo\n", "line 1, column 1, at `foo': a table (`*filter') must come first"),
        (
            "*mangle\nCOMMIT\n",
            "line 1, column 1, at `*mangle': table `mangle' is not supported yet",
        ),
        (
            "*filter\n-A INPUT -j DROP\nCOMMIT\n*nat\n-A POSTROUTING -j SNAT --to-source 0.0.0.0\nCOMMIT\n",
            "line 5, column 36, at `0.0.0.0': `0.0.0.0' can be no host's address",
        ),
        (
            "*nat\n-A POSTROUTING -j SNAT --to-source 126.0.0.1-128.0.0.1\nCOMMIT\n",
            "line 2, column 36, at `126.0.0.1-128.0.0.1': `126.0.0.1-128.0.0.1' can be no host's address",
        ),
        (
            "*nat\n-A PREROUTING -j NETMAP --to 127.0.0.0/8\nCOMMIT\n",
            "line 2, column 30, at `127.0.0.0/8': `127.0.0.0/8' can be no host's address",
        ),
        // Its answers would not come back this way.
        (
            "*nat\n-A INPUT -j SNAT --to-source 192.0.2.1\nCOMMIT\n",
            "line 4, column 1: Invalid argument.",
        ),
        (
            "*nat\n-A INPUT -j NETMAP --to 192.0.2.1\nCOMMIT\n",
            "line 4, column 1: Invalid argument.",
        ),
        (
            "*nat\n:x - [0:0]\n-A x -j DNAT --to 192.0.2.1\n-A OUTPUT -j x\nCOMMIT\n",
            "line 6, column 1: Invalid argument.",
        ),
        ("*x\nCOMMIT\n", "line 1, column 1, at `*x': table 'x' does not exist"),
        ("*filter\n:INPUT ACCEPT [0:0]\n", "line 3, column 1: COMMIT expected"),
        (
            "*filter\n*filter\n",
            "line 2, column 1, at `*filter': COMMIT expected before the next table",
        ),
        (
            "*filter\n-A INPUT -m limit --limit 1/s -j ACCEPT\nCOMMIT\n",
            "line 2, column 13, at `limit': match `limit' is not supported yet",
        ),
        (
            "*filter\n-A INPUT -p tcp --dport 99999999999999999999999\nCOMMIT\n",
            "line 2, column 25, at `99999999999999999999999': invalid port/service `99999999999999999999999' specified",
        ),
        (
            "*filter\n[1:99999999999999999999999] -A INPUT\nCOMMIT\n",
            "line 2, column 1, at `[1:99999999999999999999999]': invalid counters: [packets:bytes]",
        ),
        ("*filter\n:INPUT FOO [0:0]\nCOMMIT\n", "line 2, column 8, at `FOO': Bad policy name."),
        ("*filter\n:a ACCEPT [0:0]\nCOMMIT\n", "line 2, column 4, at `ACCEPT': Bad policy name."),
        (
            "*filter\n:\"a b\" - [0:0]\nCOMMIT\n",
            "line 2, column 1, at `:a b': Invalid chain name `a b'",
        ),
        (
            "*filter\n-A INPUT -m comment --comment \"abc\nCOMMIT\n",
            "line 2, column 31, at `abc': the quote that begins here does not end on this line",
        ),
        (
            "*filter\n-A nosuch -j DROP\nCOMMIT\n",
            "line 2, column 4, at `nosuch': No chain/target/match by that name.",
        ),
        (
            "*filter\n-A INPUT \0\nCOMMIT\n",
            "line 2, column 10, at `\\0': a zero byte: this is not a dump of iptables-save",
        ),
        ("*filter\n-L\nCOMMIT\n", "line 2, column 1, at `-L': this command has no place in a dump"),
        (
            "*filter\n-A INPUT -t nat\nCOMMIT\n",
            "line 2, column 10, at `-t': The -t option cannot be used in a dump",
        ),
        (
            "*filter\n:a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -j a\nCOMMIT\n",
            "line 7, column 1: Too many levels of symbolic links.",
        ),
        (long.as_str(), "line 2, column 1: the line has 10000012 bytes, at most 65536 are read"),
    ] {
        let shown = &dump[..dump.len().min(80)];
        assert_eq!(refuse(dump), message, "{shown}");
    }
}

#[test]
fn a_dump_replaces_all_rules_and_keeps_counts_if_asked() {
    let dump = "# comment\r\n\n*filter\n:INPUT DROP [5:6]\n:FORWARD ACCEPT\n:x - [0:0]\n\
                [7:8] -A INPUT -s 1.1.1.1,2.2.2.2 -j x\n-6 -A INPUT -s ::1\n-I x -j ACCEPT\nCOMMIT\n";
    let mut rules = after("-A INPUT -s 192.0.2.1 -j DROP\n-P OUTPUT DROP\n-N old");
    let output = execute_restore(Family::V4, &[], dump, &mut rules, Counts::default);
    assert_eq!((output.code, output.changed), (0, true), "{}", output.stderr);
    assert!(output.stderr.contains("other family"), "{}", output.stderr);
    assert_eq!(
        shown(&mut rules, "-S -v"),
        "-P INPUT DROP -c 0 0\n-P FORWARD ACCEPT -c 0 0\n-P OUTPUT DROP -c 0 0\n-N x\n\
         -A INPUT -s 1.1.1.1/32 -c 0 0 -j x\n-A INPUT -s 2.2.2.2/32 -c 0 0 -j x\n-A x -c 0 0 -j ACCEPT\n"
    );
    execute_restore(Family::V4, &words("-c"), dump, &mut rules, Counts::default);
    assert!(
        shown(&mut rules, "-S INPUT -v")
            .starts_with("-P INPUT DROP -c 5 6\n-A INPUT -s 1.1.1.1/32 -c 7 8 -j x\n")
    );
    let more = "*filter\n-A INPUT -s 3.3.3.3\nCOMMIT\n";
    execute_restore(Family::V4, &words("-n"), more, &mut rules, Counts::default);
    assert_eq!(shown(&mut rules, "-S INPUT").lines().count(), 4);
    let before = rules.clone();
    let output = execute_restore(Family::V4, &words("--test"), dump, &mut rules, Counts::default);
    assert_eq!((output.code, output.changed), (0, false));
    assert_eq!(rules, before);
}

// --- reserved chains and the built-in policy ----------------------------------------------------

#[test]
fn reserved_chains_are_seen_but_not_edited_and_survive_flush_and_restore() {
    let mut rules = after("-A FORWARD -s 192.0.2.1 -j DROP");
    let forward = [words("-d 192.168.1.10/32 -p tcp --dport 80 -j ACCEPT")];
    rules.set_reserved(Family::V4, "POSTERN-FORWARD", Hook::Forward, &forward).expect("valid");
    let jump = "-A FORWARD -j POSTERN-FORWARD\n";
    assert!(shown(&mut rules, "-S FORWARD").contains(jump));
    for line in [
        "-A POSTERN-FORWARD -j DROP",
        "-I POSTERN-FORWARD -j DROP",
        "-D POSTERN-FORWARD 1",
        "-F POSTERN-FORWARD",
        "-X POSTERN-FORWARD",
        "-E POSTERN-FORWARD mine",
        "-N POSTERN-X",
    ] {
        let output = run(&mut rules, line);
        assert_eq!(output.code, 1, "{line}");
        assert!(output.stderr.contains("belongs to postern"), "{}", output.stderr);
    }
    shown(&mut rules, "-I FORWARD -s 198.51.100.1 -j DROP");
    assert_eq!(
        shown(&mut rules, "-S FORWARD"),
        format!(
            "-P FORWARD ACCEPT\n-A FORWARD -s 198.51.100.1/32 -j DROP\n{jump}-A FORWARD -s 192.0.2.1/32 -j DROP\n"
        )
    );
    let saved = execute_save(Family::V4, &[], &rules, Counts::default).stdout;
    shown(&mut rules, "-F");
    shown(&mut rules, "-X");
    assert_eq!(shown(&mut rules, "-S FORWARD"), format!("-P FORWARD ACCEPT\n{jump}"));
    assert_eq!(shown(&mut rules, "-S POSTERN-FORWARD").lines().count(), 2);
    // A dump that knows nothing of it.
    let dump = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -s 10.0.0.1\nCOMMIT\n";
    execute_restore(Family::V4, &[], dump, &mut rules, Counts::default);
    assert_eq!(
        shown(&mut rules, "-S FORWARD"),
        format!("-P FORWARD DROP\n{jump}-A FORWARD -s 10.0.0.1/32\n")
    );
    // Its own dump: the jump keeps its place, the chain's lines are the daemon's.
    let output = execute_restore(Family::V4, &[], &saved, &mut rules, Counts::default);
    assert!(
        output
            .stderr
            .contains("POSTERN-* chains left out, as those are written from postern.toml: 1"),
        "{}",
        output.stderr
    );
    assert_eq!(execute_save(Family::V4, &[], &rules, Counts::default).stdout, saved);
    // What the user takes away stays away, until the chain is new again.
    shown(&mut rules, "-D FORWARD -j POSTERN-FORWARD");
    rules.set_reserved(Family::V4, "POSTERN-FORWARD", Hook::Forward, &[]).expect("valid");
    assert!(!shown(&mut rules, "-S FORWARD").contains(jump));
    rules.remove_reserved(Family::V4, "POSTERN-FORWARD");
    assert_eq!(run(&mut rules, "-L POSTERN-FORWARD").code, 1);
}

#[test]
fn the_built_in_policy_is_an_ordinary_ruleset() {
    let roles = [
        InterfaceRole { name: "lan", outside: false },
        InterfaceRole { name: "dmz", outside: false },
        InterfaceRole { name: "wan", outside: true },
    ];
    let mut rules = builtin(&roles).expect("names are fine");
    assert_eq!(
        shown(&mut rules, "-S"),
        "-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -i lan -j ACCEPT
-A INPUT -i dmz -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -i lan -o wan -j ACCEPT
-A FORWARD -i dmz -o wan -j ACCEPT
"
    );
    let v6 = execute(Family::V6, &words("-S INPUT 3"), &mut rules, Counts::default).stdout;
    assert_eq!(v6, "-A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT\n");
    let bad = [InterfaceRole { name: "a b", outside: false }];
    assert!(builtin(&bad).is_err());
}

// --- hostile input ----------------------------------------------------------------------------------

fn token() -> impl Strategy<Value = String> {
    let known = "-A -I -D -R -C -L -S -F -Z -N -X -P -E INPUT FORWARD a b POSTERN-X -p tcp udp icmp -s -d 10.0.0.1/8
        1.1.1.1,2.2.2.2 -i -o lan eth+ -j ACCEPT DROP REJECT RETURN LOG ! -m conntrack --ctstate NEW,DNAT --dport
        --sport 80 1:2 http --syn --tcp-flags SYN,ACK multiport --dports 1,2,3 --icmp-type 8 echo-request comment
        --comment hello --reject-with tcp-reset --to-source 1.2.3.4 --to-ports 5-6 --random --endpoint-independent mapping --port-blocks 64 SNAT REDIRECT NETMAP NOTRACK --to -n -v -x --line-numbers -t filter nat raw PREROUTING POSTROUTING -c 1 2 -w -4 -6 -h 0 3 --jump=DROP
        -nvL *filter :a :INPUT - COMMIT [1:2] \" \\";
    let known: Vec<String> = known.split_whitespace().map(str::to_owned).collect();
    prop_oneof![9 => prop::sample::select(known), 1 => "\\PC{0,6}", 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_command_line_panics_and_every_refused_one_changes_nothing(
        lines in prop::collection::vec(prop::collection::vec(token(), 0..12), 1..12),
    ) {
        let mut rules = after("-N a\n-N b\n-A a -j b");
        for args in lines {
            let before = rules.clone();
            let output = execute(Family::V4, &args, &mut rules, Counts::default);
            prop_assert_eq!(output.code == 0, output.stderr.is_empty());
            if !output.changed {
                prop_assert_eq!(rules.family(Family::V4), before.family(Family::V4));
            }
            let saved = execute_save(Family::V4, &[], &rules, Counts::default).stdout;
            let mut again = Rulesets::new();
            let options = RestoreOptions::default();
            restore(&saved, Family::V4, options, &mut again, &Counts::default())
                .map_err(|e| TestCaseError::fail(format!("{e}\n{saved}")))?;
            prop_assert_eq!(execute_save(Family::V4, &[], &again, Counts::default).stdout, saved);
        }
    }

    #[test]
    fn no_dump_panics_and_every_refused_one_changes_nothing(
        lines in prop::collection::vec(prop::collection::vec(token(), 0..10), 0..12),
        framed in any::<bool>(),
    ) {
        let body: String = lines.iter().map(|line| line.join(" ") + "\n").collect();
        let dump = if framed { format!("*filter\n:a - [0:0]\n{body}COMMIT\n") } else { body };
        let mut rules = after("-A INPUT -s 192.0.2.1 -j DROP");
        let before = rules.clone();
        let options = RestoreOptions::default();
        if restore(&dump, Family::V4, options, &mut rules, &Counts::default()).is_err() {
            prop_assert_eq!(rules, before);
        }
    }
}

/// C192: several tables in one dump, wholly or not at all; those that it does not mention stay.
#[test]
fn a_dump_of_several_tables_is_taken_whole_and_printed_again() {
    let dump = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                -A PREROUTING -p udp -m udp --dport 53 -j CT --notrack\nCOMMIT\n\
                *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n\
                *nat\n:PREROUTING ACCEPT [1:2]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                :POSTROUTING ACCEPT [0:0]\n:web - [0:0]\n\
                [3:4] -A PREROUTING -i wan -p tcp -m tcp --dport 80 -j web\n\
                -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.8-203.0.113.9 --persistent\n\
                -A web -j DNAT --to-destination 192.168.1.10-192.168.1.12\nCOMMIT\n";
    let options = RestoreOptions { counters: true, ..RestoreOptions::default() };
    let mut rules = Rulesets::new();
    restore(dump, Family::V4, options, &mut rules, &Counts::default()).expect("a real one");
    let saved = execute_save(Family::V4, &words("-c"), &rules, Counts::default).stdout;
    let body = |text: &str, counts: bool| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| match line.split_once("] -A") {
                Some((_, rule)) if !counts => format!("-A{rule}"),
                _ => line.to_owned(),
            })
            .collect()
    };
    assert_eq!(body(&saved, false), body(dump, false));
    assert!(saved.contains("[3:4] -A PREROUTING -i wan"), "{saved}");
    let nat = execute_save(Family::V4, &words("-t nat"), &rules, Counts::default).stdout;
    assert!(nat.contains("*nat") && !nat.contains("*filter"));

    // One table alone replaces that one; a wrong one nothing, though the tables before it were right.
    let before = rules.clone();
    let broken = "*raw\nCOMMIT\n*nat\n-A PREROUTING -j SNAT --to 192.0.2.1\nCOMMIT\n";
    let read = execute_restore(Family::V4, &[], broken, &mut rules, Counts::default);
    assert_eq!((read.code, rules == before), (1, true), "{}", read.stderr);
    let read = execute_restore(Family::V4, &words("-T nat"), broken, &mut rules, Counts::default);
    assert_eq!((read.code, rules == before), (1, true), "{}", read.stderr);
    let one = "*filter\n-A INPUT -j DROP\nCOMMIT\n*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n";
    let read = execute_restore(Family::V4, &words("-T nat"), one, &mut rules, Counts::default);
    assert_eq!(read.code, 0, "{}", read.stderr);
    let saved = execute_save(Family::V4, &[], &rules, Counts::default).stdout;
    assert!(saved.contains("--notrack") && saved.contains("ctstate DNAT"), "{saved}");
    assert!(!saved.contains("-A INPUT") && !saved.contains("web"), "{saved}");
    assert!(saved.contains("-A POSTROUTING -j MASQUERADE"), "{saved}");
}

/// C192: Postern's own option is saved as it is typed, loaded again, shown, and refused where it means nothing.
#[test]
fn endpoint_independence_is_said_saved_and_shown() {
    let mut rules = Rulesets::new();
    let mut run = |family, line: &str| execute(family, &words(line), &mut rules, Counts::default);
    for line in [
        "-t nat -A POSTROUTING -o wan -p udp -j MASQUERADE --to-ports 4000-5000 --random --endpoint-independent filtering",
        "-t nat -A POSTROUTING -j SNAT --endpoint-independent=mapping --to-source 203.0.113.8-203.0.113.9",
    ] {
        let done = run(Family::V4, line);
        assert_eq!(done.code, 0, "{line}: {}", done.stderr);
    }
    let saved = run(Family::V4, "-t nat -S POSTROUTING").stdout;
    assert_eq!(
        saved,
        "-P POSTROUTING ACCEPT\n\
         -A POSTROUTING -o wan -p udp -j MASQUERADE --to-ports 4000-5000 --random --endpoint-independent filtering\n\
         -A POSTROUTING -j SNAT --to-source 203.0.113.8-203.0.113.9 --endpoint-independent mapping\n"
    );
    let shown = run(Family::V4, "-t nat -L POSTROUTING -n").stdout;
    assert!(
        shown.contains("masq ports: 4000-5000 random endpoint-independent filtering"),
        "{shown}"
    );
    assert!(shown.contains("to:203.0.113.8-203.0.113.9 endpoint-independent mapping"), "{shown}");
    for (family, line, why) in [
        (Family::V4, "MASQUERADE --endpoint-independent both", "neither mapping nor filtering"),
        (Family::V4, "MASQUERADE --endpoint-independent", "requires an argument"),
        (
            Family::V4,
            "MASQUERADE --endpoint-independent mapping --endpoint-independent filtering",
            "only be used once",
        ),
        (Family::V4, "NETMAP --to 192.0.2.0/24 --endpoint-independent mapping", "unknown option"),
        (Family::V4, "ACCEPT --endpoint-independent mapping", "it belongs behind"),
        (Family::V6, "MASQUERADE --endpoint-independent mapping", "IPv4 only"),
    ] {
        let refused = run(family, &format!("-t nat -A POSTROUTING -j {line}"));
        assert!(refused.code != 0 && refused.stderr.contains(why), "{line}: {}", refused.stderr);
    }
    let dump = execute_save(Family::V4, &words("-t nat"), &rules, Counts::default).stdout;
    let mut again = Rulesets::new();
    let options = RestoreOptions::default();
    restore(&dump, Family::V4, options, &mut again, &Counts::default()).expect("what was saved");
    let twice = execute_save(Family::V4, &words("-t nat"), &again, Counts::default).stdout;
    let body = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
    };
    assert_eq!(body(&twice), body(&dump));
    assert_eq!(body(&dump).len(), 2);
}

/// `--port-blocks` needs one network that has as many hosts as there are blocks, and is printed as it was typed.
#[test]
fn blocks_of_ports_are_for_one_network_that_fits() {
    let mut rules = Rulesets::new();
    let mut run = |family, line: &str| execute(family, &words(line), &mut rules, Counts::default);
    let rule = "-A POSTROUTING -s 100.64.0.0/22 -o wan -j SNAT --to-source 203.0.113.16-203.0.113.31 --port-blocks 1000";
    let done = run(Family::V4, &format!("-t nat {rule}"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(
        run(Family::V4, "-t nat -S POSTROUTING").stdout,
        format!("-P POSTROUTING ACCEPT\n{rule}\n")
    );
    let shown = run(Family::V4, "-t nat -L POSTROUTING -n").stdout;
    assert!(shown.contains("to:203.0.113.16-203.0.113.31 port-blocks 1000"), "{shown}");
    let to = "-o wan -j SNAT --to-source 203.0.113.16-203.0.113.31";
    for (family, line, why) in [
        (Family::V4, "-s 100.64.0.0/21 {to} --port-blocks 1000", "more hosts in 100.64.0.0/21"),
        (Family::V4, "{to} --port-blocks 1000", "needs one source network"),
        (Family::V4, "-s 10.0.0.0/24,10.1.0.0/24 {to} --port-blocks 1000", "one source network"),
        (Family::V4, "! -s 10.0.0.0/24 {to} --port-blocks 1000", "one source network"),
        (Family::V4, "-s 10.0.0.0/255.0.255.0 {to} --port-blocks 1000", "one source network"),
        (Family::V4, "-s 10.0.0.0/24 {to} --port-blocks 63", "not a number from 64 to 64511"),
        (Family::V4, "-s 10.0.0.0/24 {to} --port-blocks 1e3", "not a number from 64 to 64511"),
        (Family::V4, "-s 10.0.0.0/24 {to} --port-blocks 64 --port-blocks 65", "only be used once"),
        (Family::V4, "-p udp -s 10.0.0.0/30 {to}:2000-3000 --port-blocks 64", "without ports"),
        (Family::V4, "-s 10.0.0.0/24 -j MASQUERADE --port-blocks 1000", "has no such option"),
        (
            Family::V6,
            "-s 2001:db8::/120 -j SNAT --to-source 2001:db8::1 --port-blocks 64",
            "IPv4 only",
        ),
    ] {
        let line = line.replace("{to}", to);
        let refused = run(family, &format!("-t nat -A POSTROUTING {line}"));
        assert!(refused.code != 0 && refused.stderr.contains(why), "{line}: {}", refused.stderr);
    }
    let whose = |port| postern_rules::whose_block(&rules, [203, 0, 113, 17].into(), port);
    let hosts: Vec<_> = [1023, 1024, 2023, 2024, 65_023, 65_024]
        .into_iter()
        .map(|port| whose(port).into_iter().map(|host| host.to_string()).collect::<Vec<_>>())
        .collect();
    let hosts: Vec<_> = hosts.iter().map(|hosts| hosts.join(" ")).collect();
    assert_eq!(hosts, ["", "100.64.0.64", "100.64.0.64", "100.64.0.65", "100.64.0.127", ""]);
}
