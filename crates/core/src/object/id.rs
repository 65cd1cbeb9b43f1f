//! Ids of objects, leases and instances. All are random and made by the driver; here they are only compared.

use crate::hex::hex_id;

hex_id! {
    /// Names one object of one instance. Random, so that it can't be guessed or made twice.
    ObjectId, 16, "an object id"
}
hex_id! {
    /// Names one read of one object. Chosen at random by the consumer, so that asking again is no new read.
    LeaseId, 16, "a lease id"
}
hex_id! {
    /// Random at the producer's start: tells a restarted instance, or another at a recycled address, apart.
    Epoch, 8, "an epoch"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_own_text_and_from_no_other() {
        let id = ObjectId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            "ABCDEF0123456789".parse::<Epoch>().map_err(|e| e.to_string()),
            Err("an epoch is 16 lower-case hexadecimal digits".to_owned())
        );
        assert!("00".parse::<Epoch>().is_err());
    }
}
