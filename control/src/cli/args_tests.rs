//! What is typed, and what is made of it.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn rules(line: &str) -> (Family, RulesProgram, Vec<String>) {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Rules(rules) => rules.into_parts(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn iptables_arguments_are_passed_as_typed() {
    for (line, args) in [
        (
            "postern iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        ),
        ("postern iptables -L -n -v --line-numbers", "-L -n -v --line-numbers"),
        ("postern iptables -h", "-h"),
        ("postern iptables --help", "--help"),
        ("postern iptables -V", "-V"),
        ("postern iptables --version", "--version"),
        ("postern iptables ! -i wan", "! -i wan"),
        ("postern iptables \u{2013}A INPUT", "\u{2013}A INPUT"),
        ("postern --control /tmp/s iptables -t nat -S", "-t nat -S"),
        ("postern iptables", ""),
    ] {
        let (family, program, given) = rules(line);
        assert_eq!((family, program), (Family::Ipv4, RulesProgram::Iptables), "{line}");
        assert_eq!(given.join(" "), args, "{line}");
    }
}

#[test]
fn the_programs_of_the_iptables_language_have_their_own_names() {
    for (line, family, program) in [
        ("postern ip6tables -S", Family::Ipv6, RulesProgram::Iptables),
        ("postern iptables-save -c", Family::Ipv4, RulesProgram::Save),
        ("postern ip6tables-save", Family::Ipv6, RulesProgram::Save),
        ("postern iptables-restore -n", Family::Ipv4, RulesProgram::Restore),
        ("postern ip6tables-restore --test", Family::Ipv6, RulesProgram::Restore),
    ] {
        let parts = rules(line);
        assert_eq!((parts.0, parts.1), (family, program), "{line}");
    }
}

#[test]
fn a_forward_is_added_with_options_or_in_short() {
    for line in [
        "postern forward add --interface wan --protocol tcp --port 8080 --to 192.168.1.10:80",
        "postern forward add -i wan tcp 8080 192.168.1.10:80",
        "postern forward add tcp 8080 192.168.1.10:80 --interface wan",
    ] {
        let Command::Forward(ForwardCommand::Add(add)) = parse(line).unwrap().command else {
            panic!("{line}")
        };
        assert_eq!(add.interface.as_deref(), Some("wan"));
        assert_eq!(add.parts().unwrap(), ["tcp", "8080", "192.168.1.10:80"], "{line}");
    }
    let half = parse("postern forward add --protocol tcp --port 8080").unwrap();
    let Command::Forward(ForwardCommand::Add(add)) = half.command else { panic!() };
    assert!(matches!(add.parts(), Err(CliError::Usage(_))));
    for line in [
        "postern forward add tcp 8080",
        "postern forward add tcp 8080 192.168.1.10:80 more",
        "postern forward add --port 1 tcp 8080 192.168.1.10:80",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn conntrack_takes_the_options_of_conntrack() {
    let line = "postern conntrack list -p tcp -s 192.168.1.0/24 --dport 443 --state ESTABLISHED -n -o id,extended";
    let Command::Conntrack(command) = parse(line).unwrap().command else { panic!() };
    let ConntrackCommand::List { filter, show } = *command else { panic!() };
    let query = ConnectionQuery::from(filter);
    assert_eq!(query.protocol.as_deref(), Some("tcp"));
    assert_eq!(query.src.as_deref(), Some("192.168.1.0/24"));
    assert_eq!(query.dport.as_deref(), Some("443"));
    assert_eq!(query.state.as_deref(), Some("ESTABLISHED"));
    assert_eq!(query.src_nat.as_deref(), Some("any"));
    assert_eq!(show.output, [Extra::Id, Extra::Extended]);

    let by_id = parse("postern conntrack delete 17").unwrap().command;
    let Command::Conntrack(command) = by_id else { panic!() };
    let ConntrackCommand::Delete { id, .. } = *command else { panic!() };
    assert_eq!(id.as_deref(), Some("17"));
}

#[test]
fn every_filter_option_is_asked_for_by_its_name() {
    let asked = |line: &str| {
        let Command::Conntrack(command) = parse(line).unwrap().command else { panic!("{line}") };
        let query: ConnectionQuery = match *command {
            ConntrackCommand::List { filter, .. }
            | ConntrackCommand::Get { filter, .. }
            | ConntrackCommand::Delete { filter, .. }
            | ConntrackCommand::Events { filter, .. } => filter.into(),
            ConntrackCommand::Update { filter, .. } => filter.into(),
            _ => panic!("{line}"),
        };
        serde_urlencoded::to_string(query).unwrap()
    };
    for (options, query) in [
        ("-f 4|--family 4", "family=4"),
        ("-p tcp|--protonum tcp|--proto tcp", "protocol=tcp"),
        ("-s ::1|--orig-src ::1|--src ::1", "src=%3A%3A1"),
        ("-d ::1|--orig-dst ::1|--dst ::1", "dst=%3A%3A1"),
        ("-r ::1|--reply-src ::1", "reply_src=%3A%3A1"),
        ("-q ::1|--reply-dst ::1", "reply_dst=%3A%3A1"),
        ("--sport 1|--orig-port-src 1", "sport=1"),
        ("--dport 1|--orig-port-dst 1", "dport=1"),
        ("--reply-port-src 1", "reply_sport=1"),
        ("--reply-port-dst 1", "reply_dport=1"),
        ("--icmp-type 8|--icmpv6-type 8", "icmp_type=8"),
        ("--icmp-id 8|--icmpv6-id 8", "icmp_id=8"),
        ("--state CLOSE", "state=CLOSE"),
        ("-u ASSURED|--status ASSURED", "status=ASSURED"),
        ("-n|--src-nat", "src_nat=any"),
        ("-n 10.0.0.1", "src_nat=10.0.0.1"),
        ("-g|--dst-nat", "dst_nat=any"),
        ("-j|--any-nat", "any_nat=any"),
        ("-w 0|--zone 0", "zone=0"),
        ("--orig-zone 1", "orig_zone=1"),
        ("--reply-zone 1", "reply_zone=1"),
        ("-i wan|--interface wan", "interface=wan"),
    ] {
        for option in options.split('|') {
            for command in
                ["list", "-L", "get", "-G", "delete", "-D", "events", "-E", "update", "-U"]
            {
                let line = format!("postern conntrack {command} {option}");
                assert_eq!(asked(&line), query, "{line}");
            }
        }
    }
    // What `-m` says is met, or set.
    assert_eq!(asked("postern conntrack list -m 1/3"), "mark=1%2F3");
    assert_eq!(asked("postern conntrack events --mark 1"), "mark=1");
    assert_eq!(asked("postern conntrack update -m 1/3"), "");
}

#[test]
fn json_and_the_socket_may_be_named_anywhere() {
    for line in [
        "postern --json --control /tmp/s conntrack list",
        "postern conntrack --json list --control /tmp/s",
        "postern conntrack list --json --control=/tmp/s",
    ] {
        let cli = parse(line).unwrap();
        assert!(cli.json, "{line}");
        assert_eq!(cli.control, PathBuf::from("/tmp/s"), "{line}");
    }
    assert_eq!(
        parse("postern status").unwrap().control,
        PathBuf::from("/run/postern/control.sock")
    );
}

#[test]
fn what_is_not_a_command_is_refused() {
    for line in ["postern", "postern nonsense", "postern run", "postern conntrack list --bogus"] {
        assert!(parse(line).is_err(), "{line}");
    }
}
