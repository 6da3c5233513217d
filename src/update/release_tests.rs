//! Which releases are believed and taken. The signature was made by minisign; the key is this test's.

use serde_json::{Value, json};

use super::*;

fn manifest(change: impl FnOnce(&mut Value)) -> Manifest {
    let mut manifest = json!({
        "channel": "stable", "version": "99.0.0", "min_supported": "", "rollout_percent": 100,
        "cohort_salt": "salt", "notes_url": "https://example.com", "signed_at_ms": 1000, "force": false,
        "artifacts": [
            { "target": "riscv64gc-unknown-linux-gnu", "url": "", "size": 1, "sha256": "aa", "minisig_url": "" },
            { "target": TARGET, "url": "", "size": 2, "sha256": "bb", "minisig_url": "" },
        ],
    });
    change(&mut manifest);
    Manifest::parse(manifest.to_string().as_bytes()).unwrap()
}

const WANTED: Wanted<'static> = Wanted {
    channel: "stable",
    version: None,
    taken_back: None,
    signed_after_ms: 1000,
    agent_id: "agent",
    force: false,
};

#[test]
fn a_newer_release_of_the_channel_is_taken_for_this_target() {
    let manifest = manifest(|_| {});
    let Judgement::Take(artifact) = manifest.judge(&WANTED).unwrap() else {
        panic!("not taken")
    };
    assert_eq!((artifact.size, artifact.sha256.as_str()), (2, "bb"));
    let exactly = Wanted {
        version: Some("99.0.0"),
        ..WANTED
    };
    assert!(matches!(manifest.judge(&exactly), Ok(Judgement::Take(_))));
}

#[test]
fn what_is_not_newer_is_left() {
    let rebuilt = format!("{CURRENT}+another.build");
    for version in [CURRENT, &rebuilt, "0.0.1", "0.1.0-rc.1"] {
        let manifest = manifest(|manifest| manifest["version"] = version.into());
        assert_eq!(manifest.judge(&WANTED).unwrap(), Judgement::Current, "{version}");
        let wanted = Wanted {
            version: Some(version),
            ..WANTED
        };
        let asked_for = manifest.judge(&wanted);
        let is_refused = matches!(asked_for, Err(Error::Untrusted { .. }));
        let is_older = ["0.0.1", "0.1.0-rc.1"].contains(&version);
        assert_eq!(is_refused, is_older, "{version}: {asked_for:?}");
    }
}

#[test]
fn an_old_manifest_another_channel_another_version_and_another_target_are_refused() {
    let old = manifest(|manifest| manifest["signed_at_ms"] = 999.into());
    assert!(matches!(old.judge(&WANTED), Err(Error::Untrusted { .. })));
    let beta = manifest(|manifest| manifest["channel"] = "beta".into());
    assert!(matches!(beta.judge(&WANTED), Err(Error::Untrusted { .. })));
    let wanted = Wanted {
        version: Some("98.0.0"),
        ..WANTED
    };
    assert!(matches!(
        manifest(|_| {}).judge(&wanted),
        Err(Error::NotFound { .. })
    ));
    let elsewhere = manifest(|manifest| manifest["artifacts"][1]["target"] = "other".into());
    assert!(matches!(elsewhere.judge(&WANTED), Err(Error::Unsupported { .. })));
    let far = manifest(|manifest| manifest["min_supported"] = "50.0.0".into());
    assert!(matches!(far.judge(&WANTED), Err(Error::Unsupported { .. })));
    let near = manifest(|manifest| manifest["min_supported"] = CURRENT.into());
    assert!(matches!(near.judge(&WANTED), Ok(Judgement::Take(_))));
}

#[test]
fn a_staged_rollout_takes_as_many_as_it_says() {
    let turns = |percent: u32| {
        let manifest = manifest(|manifest| manifest["rollout_percent"] = percent.into());
        let takes = |agent: &u32| {
            let agent_id = agent.to_string();
            let wanted = Wanted {
                agent_id: &agent_id,
                ..WANTED
            };
            manifest.judge(&wanted).unwrap() != Judgement::NotYet
        };
        (0..1000).filter(takes).count()
    };
    assert_eq!((turns(0), turns(100)), (0, 1000));
    assert!((200..300).contains(&turns(25)), "{}", turns(25));
    let nobody = |force| {
        manifest(|manifest| {
            manifest["rollout_percent"] = 0.into();
            manifest["force"] = force;
        })
    };
    let forced = Wanted {
        force: true,
        ..WANTED
    };
    assert!(matches!(
        nobody(false.into()).judge(&forced),
        Ok(Judgement::Take(_))
    ));
    assert!(matches!(
        nobody(true.into()).judge(&WANTED),
        Ok(Judgement::Take(_))
    ));
}

#[test]
fn a_cohort_is_the_first_eight_bytes_of_the_digest() {
    let digest = blake3::hash(b"agentsalt");
    let bytes = digest.as_bytes();
    let number = (0..8).fold(0_u64, |number, index| {
        number | u64::from(bytes[index]) << (8 * index)
    });
    assert_eq!(u64::from(cohort("agent", "salt")), number % 100);
}

#[test]
fn what_is_no_manifest_is_said() {
    for text in ["", "[]", "{}", r#"{"version":"1"}"#] {
        assert!(matches!(
            Manifest::parse(text.as_bytes()),
            Err(Error::Protocol { .. })
        ));
    }
}
