//! What the command line takes and refuses.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn times_are_read_as_nginx_writes_them() {
    for (text, time_ms) in [("500ms", 500), ("10s", 10_000), ("10", 10_000), ("2m", 120_000), ("24h", 86_400_000)] {
        assert_eq!(parse_time(text), Ok(Duration::from_millis(time_ms)));
    }
    for text in ["", "s", "1d", "-1s", "1.5s", "25h", "99999999999999999999s", "18446744073709551615h", "é"] {
        assert!(parse_time(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn an_error_names_the_value_and_what_is_needed() {
    for (line, said) in [
        ("--wait x class delete vip", "'x' for '--wait <TIME>': is not a time as 5s or 500ms"),
        ("--wait -5s class delete vip", "'-5s' for '--wait <TIME>': is not a time as 5s or 500ms"),
        ("--wait 5y class delete vip", "'5y' for '--wait <TIME>': has another unit than ms, s, m, h"),
        ("peer set llm 127.0.0.1:1 --weight -1", "'-1' for '--weight <N>': is not 0 to 65535 or \"unset\""),
        ("peer set llm 127.0.0.1:1 --max-conns -1", "'-1' for '--max-conns <N>': is not 0 to 65535 or \"unset\""),
        ("class set vip --burst -1", "'-1' for '--burst <N>': is not 0 to 1000000 or \"unset\""),
        ("class set vip --rate -1r/s", "'-1r/s' for '--rate <RATE>': is not a rate as 100r/s"),
        ("class set vip --queue-timeout x", "'x' for '--queue-timeout <TIME>': is not a time as 500ms"),
        ("class set vip --bandwidth x", "'x' for '--bandwidth <SIZE>': is not a size as 512k"),
        ("key rotate k1 --overlap -1h", "'-1h' for '--overlap <TIME>': is not a time as 500ms"),
    ] {
        let error = Args::try_parse_from(["pincerctl"].into_iter().chain(line.split(' '))).unwrap_err();
        assert!(error.to_string().contains(said), "{line}: {error}");
    }
}

#[test]
fn the_contracts_commands_are_read() {
    for line in [
        "-o json upstream list",
        "upstream get llm",
        "peer list llm",
        "--wait 5s peer set llm 127.0.0.1:1 --weight 0 --max-conns 4 --state draining",
        "peer set llm 127.0.0.1:1 --weight unset --wait 5s -o table",
        "peer add llm unix:/a",
        "peer remove llm 127.0.0.1:1",
        "node list",
        "node delete web-1 -o json",
        "cache purge --upstream llm --all",
        "cache purge --location /v1/ --cache-key GEThttp --node web-1 --timeout 5s -o json",
        "cache purge --cache answers --cache-key - --dry-run",
        "cache purge --every-cache --all",
        "class list",
        "class get vip",
        "class set vip --rate 100r/s --burst 20 --delay nodelay --concurrency 4 --bandwidth 512k --priority 0 --wait 5s",
        "class set vip --share 50 --queue 100 --queue-timeout 10s --rate unset --etag r2",
        "class delete vip",
        "key create --tenant acme --class vip --cidr 10.0.0.0/8,fd00::/8 --cidr 127.0.0.1 --expires 90d",
        "key rotate k1 --overlap 1h",
        "key revoke k1 --etag r7",
        "key delete k1",
        "key list -o json",
        "apply -f a.yaml --dry-run",
        "watch",
    ] {
        let words = ["pincerctl"].into_iter().chain(line.split(' '));
        assert!(Args::try_parse_from(words).is_ok(), "{line}");
    }
    for line in [
        "peer set llm 127.0.0.1:1 --weight 65536",
        "peer set llm 127.0.0.1:1 --state off",
        "node delete",
        "class set vip --rate 100",
        "class set vip --share 101",
        "class set --rate 1r/s",
        "key create --tenant acme",
        "key create --tenant a/b --class vip",
        "key create --tenant acme --class vip --cidr 10.0.0.0/33",
        "key rotate k1 --overlap 1w",
    ] {
        let words = ["pincerctl"].into_iter().chain(line.split(' '));
        assert_eq!(Args::try_parse_from(words).map(drop).map_err(|e| e.exit_code()), Err(2), "{line}");
    }
}
