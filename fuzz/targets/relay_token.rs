//! Tokens of the relay: whatever was not signed is refused, also a signed one that was changed.

#![no_main]

use boxd::wire::relay_token::{ProducerClaims, ViewerClaims, mint, verify};
use libfuzzer_sys::fuzz_target;

const SECRET: &[u8] = b"relay-test-secret";

fuzz_target!(|bytes: &[u8]| {
    let Ok(token) = std::str::from_utf8(bytes) else {
        return;
    };
    assert!(verify::<ViewerClaims>(token, b"nobody signs with this", 0).is_err());
    if let Ok(claims) = verify::<ViewerClaims>(token, SECRET, 0) {
        let again = mint(&claims, SECRET).expect("claims are written");
        let read: ViewerClaims = verify(&again, SECRET, 0).expect("our own token counts");
        assert_eq!(claims, read);
    }
    let _ = verify::<ProducerClaims>(token, SECRET, 0);
});
