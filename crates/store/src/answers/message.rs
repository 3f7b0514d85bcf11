//! What a leading node tells the nodes that follow it, one piece of the store's each.
//!
//! Numbered, because a call whose answer was lost is made again and may say the same twice; with the flight's own
//! number, because another may begin under the same key; sealed, because whoever writes to the store could speak.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::entry::{Head, put_head, take_head};
use super::key::{Key, SEAL, Sealer};

/// One step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Say {
    Head(Head),
    Piece(Bytes),
    /// It is whole.
    Whole,
    /// It ends here and is not whole.
    Broken,
    Failed(String),
    /// Too late to follow, or too large to be sent.
    Alone,
}

/// A step with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub flight: u128,
    /// From 0 on, without gaps.
    pub number: u32,
    pub say: Say,
}

impl Message {
    /// `None` for a text beyond 4 GiB.
    pub fn encode(&self, sealer: &Sealer, key: &Key) -> Option<Bytes> {
        let mut to = BytesMut::new();
        to.put_u128_le(self.flight);
        to.put_u32_le(self.number);
        match &self.say {
            Say::Head(head) => {
                to.put_u8(b'H');
                put_head(&mut to, head)?;
            }
            Say::Piece(piece) => {
                to.put_u8(b'P');
                to.put_slice(piece);
            }
            Say::Whole => to.put_u8(b'W'),
            Say::Broken => to.put_u8(b'B'),
            Say::Failed(about) => {
                to.put_u8(b'F');
                to.put_slice(about.as_bytes());
            }
            Say::Alone => to.put_u8(b'A'),
        }
        let seal = sealer.seal(key, &to);
        to.put_slice(&seal);
        Some(to.freeze())
    }

    /// `None`: not ours, or damaged.
    pub fn decode(sealer: &Sealer, key: &Key, from: &Bytes) -> Option<Self> {
        let (sealed, seal) = from.split_at_checked(from.len().checked_sub(SEAL)?)?;
        if !sealer.is_sealed(key, sealed, seal) {
            return None;
        }
        let mut rest = from.slice(..sealed.len());
        let flight = rest.try_get_u128_le().ok()?;
        let number = rest.try_get_u32_le().ok()?;
        let say = match rest.try_get_u8().ok()? {
            b'H' => Say::Head(take_head(&mut rest)?),
            b'P' => Say::Piece(rest),
            b'W' => Say::Whole,
            b'B' => Say::Broken,
            b'F' => Say::Failed(String::from_utf8(rest.into()).ok()?),
            b'A' => Say::Alone,
            _ => return None,
        };
        Some(Self { flight, number, say })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_damaged_ones_do_not() {
        let sealer = Sealer::new(Some(b"secret"));
        let (key, other) = (sealer.key(&[b"a"]), sealer.key(&[b"b"]));
        let head =
            Head { status: 200, content_type: "text/plain".into(), streamed: false, about: "{}".into() };
        let says = [
            Say::Head(head),
            Say::Piece(Bytes::from("x")),
            Say::Whole,
            Say::Broken,
            Say::Failed("why".into()),
            Say::Alone,
        ];
        for (number, say) in says.into_iter().enumerate() {
            let message = Message { flight: u128::MAX - 1, number: number as u32, say };
            let bytes = message.encode(&sealer, &key).unwrap();
            assert_eq!(Message::decode(&sealer, &key, &bytes), Some(message));
            assert_eq!(Message::decode(&sealer, &other, &bytes), None);
            assert_eq!(Message::decode(&sealer, &key, &bytes.slice(1..)), None);
            assert_eq!(Message::decode(&sealer, &key, &bytes.slice(..3)), None);
        }
    }
}
