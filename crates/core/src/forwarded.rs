//! The `Forwarded` header (RFC 7239) made from the older `X-Forwarded-*` headers.
//!
//! A function behind Knative may rely on `Forwarded`, which Knative's queue-proxy makes up when only the older headers
//! came. The answers are Knative's to the byte, also where its answer is odd (`X-Forwarded-For: ,` with a host gives
//! `for=host=…`), because functions in production parse what they have always been given.
//!
//! Values are bytes, as header values are; nothing is validated or decoded.

/// What a request says about the way it came: the first value of each header, an empty slice where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardedHeaders<'a> {
    /// `Forwarded`.
    pub forwarded: &'a [u8],
    /// `X-Forwarded-For`: client, then each proxy, separated by commas.
    pub x_forwarded_for: &'a [u8],
    /// `X-Forwarded-Proto`.
    pub x_forwarded_proto: &'a [u8],
    /// `X-Forwarded-Host`.
    pub x_forwarded_host: &'a [u8],
}

impl ForwardedHeaders<'_> {
    /// The `Forwarded` header to add, or nothing: one is there already, or there is nothing to make it from.
    ///
    /// Host and protocol go with the first node, since the older headers don't say which node they belong to.
    /// The result is at most nine bytes a node longer than its sources.
    pub fn missing_forwarded(&self) -> Option<Vec<u8>> {
        let (nodes, proto, host) = (self.x_forwarded_for, self.x_forwarded_proto, self.x_forwarded_host);
        if !self.forwarded.is_empty() || (nodes.is_empty() && proto.is_empty() && host.is_empty()) {
            return None;
        }
        // A list that ends in a comma has no further node after it.
        let listed = nodes.strip_suffix(b",").unwrap_or(nodes);
        let mut further = listed.split(|byte| *byte == b',').map(trimmed);
        let first = further.next().unwrap_or_default();

        let mut header = Vec::with_capacity(nodes.len() + proto.len() + host.len() + 32);
        if !nodes.is_empty() {
            push_node(&mut header, first);
        }
        if !host.is_empty() {
            if !first.is_empty() {
                header.push(b';');
            }
            header.extend_from_slice(b"host=");
            header.extend_from_slice(host);
        }
        if !proto.is_empty() {
            if !first.is_empty() || !host.is_empty() {
                header.push(b';');
            }
            header.extend_from_slice(b"proto=");
            header.extend_from_slice(proto);
        }
        for node in further {
            header.extend_from_slice(b", ");
            push_node(&mut header, node);
        }
        Some(header)
    }
}

/// Whatever holds a colon counts as an IPv6 address, which RFC 7239 wants quoted and in brackets.
fn push_node(header: &mut Vec<u8>, node: &[u8]) {
    header.extend_from_slice(b"for=");
    if node.contains(&b':') {
        header.extend_from_slice(b"\"[");
        header.extend_from_slice(node);
        header.extend_from_slice(b"]\"");
    } else {
        header.extend_from_slice(node);
    }
}

fn trimmed(node: &[u8]) -> &[u8] {
    match core::str::from_utf8(node) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => node.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded_for(nodes: &str) -> Option<String> {
        let headers = ForwardedHeaders { x_forwarded_for: nodes.as_bytes(), ..ForwardedHeaders::default() };
        headers.missing_forwarded().and_then(|header| String::from_utf8(header).ok())
    }

    #[test]
    fn a_trailing_comma_adds_no_node_and_two_add_one() {
        assert_eq!(forwarded_for("1.1.1.1,").as_deref(), Some("for=1.1.1.1"));
        assert_eq!(forwarded_for("1.1.1.1,,").as_deref(), Some("for=1.1.1.1, for="));
    }

    #[test]
    fn a_header_that_is_there_is_left_alone() {
        let headers = ForwardedHeaders { forwarded: b"for=9.9.9.9", x_forwarded_for: b"1.1.1.1", ..ForwardedHeaders::default() };
        assert_eq!(headers.missing_forwarded(), None);
        assert_eq!(ForwardedHeaders::default().missing_forwarded(), None);
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let headers = ForwardedHeaders { x_forwarded_for: b" \xff\xfe ", ..ForwardedHeaders::default() };
        assert_eq!(headers.missing_forwarded().as_deref(), Some(&b"for=\xff\xfe"[..]));
    }
}
