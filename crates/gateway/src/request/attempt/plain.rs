//! The readable form of a coded body, for judging it; what goes to the client stays as it came.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::{self, HeaderMap};

/// No answer is judged beyond this: a few bytes can unfold to gigabytes.
const PLAIN_MAX: u64 = 8 * 1024 * 1024;

/// The body is coded in some way.
pub fn is_coded(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The body uncoded, owned; borrowed as it is where it is not coded, or in a way that cannot be read.
pub fn of<'a>(headers: &HeaderMap, body: &'a [u8]) -> Cow<'a, [u8]> {
    let coding = headers.get(header::CONTENT_ENCODING).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let mut plain = Vec::new();
    let read = if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
        MultiGzDecoder::new(body).take(PLAIN_MAX + 1).read_to_end(&mut plain)
    } else if coding.eq_ignore_ascii_case(b"deflate") {
        ZlibDecoder::new(body).take(PLAIN_MAX + 1).read_to_end(&mut plain)
    } else {
        return Cow::Borrowed(body);
    };
    // A longer one is not judged by its beginning.
    let readable = read.is_ok_and(|size| size as u64 <= PLAIN_MAX);
    if readable { Cow::Owned(plain) } else { Cow::Borrowed(body) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn coded(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, header::HeaderValue::from_static(coding))])
    }

    #[test]
    fn what_can_be_read_is_and_the_rest_stays() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"{}").unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"{}").unwrap();
        assert_eq!(of(&coded("GZIP"), &gzip), Cow::<[u8]>::Owned(b"{}".to_vec()));
        assert_eq!(of(&coded("deflate"), &zlib.finish().unwrap()), Cow::<[u8]>::Owned(b"{}".to_vec()));
        assert!(matches!(of(&coded("br"), &gzip), Cow::Borrowed(_)));
        assert!(matches!(of(&coded("gzip"), b"not gzip"), Cow::Borrowed(_)));
        assert!(matches!(of(&HeaderMap::new(), &gzip), Cow::Borrowed(_)));
    }

    #[test]
    fn a_bomb_is_not_judged() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; 64 << 20]).unwrap();
        assert!(matches!(of(&coded("gzip"), &gzip.finish().unwrap()), Cow::Borrowed(_)));
    }
}
