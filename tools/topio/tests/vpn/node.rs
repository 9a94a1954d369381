//! A validator that is a VPN server, too.

use std::fs;

use anyhow::bail;

use crate::place::{INTERNET, INTERNET6, Place, TOPIO, arrived, eventually, iperf, ping, text};

#[test]
fn a_validator_relays_while_transfers_commit() -> anyhow::Result<()> {
    let mut place = Place::new()?;
    let at = |name: &str| place.folder.path().join(name);
    let (relay, data, report) = (at("relay.toml"), at("devnet"), at("report"));
    fs::write(&relay, "[relay.vpn]\npublic_address = '192.0.2.1:51820'\n")?;
    let devnet = ["devnet", "--cores", "2", "--rate", "500", "--duration", "15", "--accounts", "100"];
    let folders = ["--relay", text(&relay), "--data-dir", text(&data), "--report", text(&report)];
    let mut devnet = place.server.start(TOPIO, &[&devnet[..], &folders].concat())?;
    place.config = data.join("v0/node.toml");
    eventually("the validator's VPN is up", || match devnet.has_ended() {
        true => bail!("the devnet has ended"),
        false => place.status().map(drop),
    })?;
    let config = place.add_client("laptop")?;
    let _client = place.client.start(TOPIO, &["vpn", "connect", text(&config)])?;
    eventually("the first ping", || ping(&place.client, INTERNET))?;
    ping(&place.client, INTERNET6)?;
    for way in [&[][..], &["-R"]] {
        let (bytes, _) = arrived(&iperf(&place.client, &place.internet, INTERNET, way)?);
        assert!(bytes > 1e6, "TCP {way:?}: {bytes} bytes a second");
    }
    // The second client is on the second core.
    let another = place.another_client()?;
    let config = place.add_client("phone")?;
    let _another = another.start(TOPIO, &["vpn", "connect", text(&config)])?;
    eventually("the other's first ping", || ping(&another, INTERNET))?;
    let status = place.status()?;
    assert_eq!(
        (&status["peers"][0]["name"], &status["peers"][1]["name"]),
        (&"laptop".into(), &"phone".into())
    );

    eventually("the devnet's report", || match devnet.has_ended() {
        true => Ok(()),
        false => bail!("it runs"),
    })?;
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(report.join("summary.json"))?)?;
    let committed = summary["committed_per_second"].as_f64().unwrap_or(0.0);
    assert!(committed > 450.0, "{committed} transfers a second");
    let relayed = &summary["relays"][0];
    assert_eq!((&relayed["validator"], &relayed["service"]), (&"v0".into(), &"vpn".into()), "{relayed}");
    assert!(
        relayed["packets"].as_u64() > Some(1_000) && relayed["core_share"].as_f64() > Some(0.0),
        "{relayed}"
    );
    assert!(fs::read_to_string(report.join("report.html"))?.contains("<h2>Relayed</h2>"));
    // What it had set up is gone with it.
    assert!(place.server.ip(&["link", "show", "topio0"]).is_err());
    assert_eq!(place.server.run("nft", &["list", "ruleset"])?, "");
    assert!(place.status().is_err(), "no VPN runs");
    Ok(())
}
