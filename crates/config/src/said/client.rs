//! `clients:` and `auth:` as written.

use super::limit::Limit;
use crate::read::{Item, said, words};
use crate::secret::Secret;
use crate::unit::{Text, Time};

said! {
    /// Who may call.
    Client: "a client", needs [name, key_sha256] {
        /// Unique; a label in metrics and logs.
        name: Text,
        /// SHA-256 of the bearer key, 64 hex digits; `tidegate keygen` makes both.
        key_sha256: Text,
        /// Models allowed, `*` for any run of characters; absent: all.
        models: Vec<Item<Text>>,
        /// Limits of this client.
        limits: Vec<Item<Limit>>,
        /// Signs this client's requests.
        signing_secret: Secret,
    }
}

said! {
    /// Ways to authenticate other than a bearer key.
    Auth: "`auth`", needs [] {
        /// JSON Web Tokens.
        jwt: Jwt,
        /// Signed requests.
        signature: Signature,
    }
}

said! {
    /// JSON Web Tokens.
    Jwt: "`jwt`", needs [keys] {
        /// Keys tokens may be signed with.
        keys: Vec<Item<JwtKey>>,
        /// Longest life of a token.
        max_age: Time,
        /// The `aud` a token must carry.
        audience: Text,
    }
}

said! {
    /// A key tokens may be signed with: `secret` for HS*, `public_key` for the others.
    JwtKey: "a JWT key", needs [kid, alg] {
        /// Unique name of the key.
        kid: Text,
        /// Algorithm.
        alg: Alg,
        /// Shared secret.
        secret: Secret,
        /// Public key, PEM.
        public_key: Secret,
    }
}

words! {
    /// Algorithms of JSON Web Tokens.
    Alg {
        Hs256 = "HS256",
        Hs384 = "HS384",
        Hs512 = "HS512",
        Rs256 = "RS256",
        Rs384 = "RS384",
        Rs512 = "RS512",
        Es256 = "ES256",
        Es384 = "ES384",
        EdDsa = "EdDSA",
    }
}

said! {
    /// Signed requests.
    Signature: "`signature`", needs [] {
        /// Clients whose requests must be signed.
        required_for: Vec<Item<Text>>,
        /// How far a timestamp may be off.
        window: Time,
    }
}
