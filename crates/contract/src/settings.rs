//! The settings table: every `ZIPLINE_*` variable, with default, unit, range and meaning.
//!
//! A program's configuration is parsed from this table; `docs/reference/settings.md` is made from it.

/// How a setting's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A whole number of bytes; `KiB`, `MiB`, `GiB` may follow.
    Bytes,
    /// Seconds; a decimal fraction is allowed.
    Seconds,
    /// A whole number.
    Count,
    /// A TCP port; 0 switches the door off where the meaning says so.
    Port,
    /// Text; the meaning says which.
    Text,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Environment variable.
    pub variable: &'static str,
    /// How its text is read.
    pub unit: Unit,
    /// Default, in the same notation as the variable; empty where there is none.
    pub default: &'static str,
    /// Smallest and largest value, where it is a number.
    pub range: Option<(f64, f64)>,
    /// What it is for, and what its worst case costs.
    pub meaning: &'static str,
}

macro_rules! settings {
    ($($constant:ident $unit:ident $default:literal $range:expr, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: Setting = Setting {
            variable: concat!("ZIPLINE_", stringify!($constant)), unit: Unit::$unit, default: $default, range: $range, meaning: $meaning,
        };)*
        /// Every setting.
        pub const ALL: &[Setting] = &[$($constant,)*];
    };
}

const GIB: f64 = 1_073_741_824.0;

settings! {
    ROLE Text "sidecar" None, "`sidecar`: the queue-proxy of one function; `client`: without a function, only local API, egress, pull and admin (the client proxy of `zipline up`); the variables of Knative's contract are then optional";
    BIND Text "" None, "Address of the request, pull, admin and statistics ports; empty: all addresses. API and egress always bind loopback (or this address where it is a loopback one)";
    CERTIFICATES_DIR Text "/var/lib/knative/certs" None, "Where Knative mounts `tls.crt` and `tls.key`; re-read on change; absent: no TLS port";
    PULL_PORT Port "8122" Some((1.0, 65535.0)), "Pull port; one number a trust domain";
    API_PORT Port "8123" Some((0.0, 65535.0)), "Local API on loopback TCP; 0: off, Unix socket only";
    API_TOKEN_FILE Text "" None, "File, readable by our own uid only, with the token that requests to API_PORT must show as the password of HTTP Basic authentication; empty: none, as in a pod";
    API_SOCKET Text "@zipline" None, "Local API's Unix socket: a path, or `@NAME` for an abstract one";
    API_SOCKET_MODE Text "pod" None, "`pod`: any uid of the pod may connect; `uid`: only our own uid";
    EGRESS_PORT Port "8124" Some((0.0, 65535.0)), "Egress on loopback; 0: off";
    KEYS_FILE Text "/var/run/secrets/zipline/keys.json" None, "Key ring of the trust domain; re-read on change; absent: a plain queue-proxy";
    SECRETS_FD Count "" Some((3.0, 1_048_576.0)), "Inherited descriptor with `{\"keys\": […], \"egress_token\": \"…\"}`, read once at start and closed (local platform)";
    SHARED_BUDGET_FD Count "" Some((3.0, 1_048_576.0)), "Inherited memfd in which the proxies of one local platform add up what they hold; see SHARED_BUDGET_SLOT";
    SHARED_BUDGET_SLOT Count "" Some((0.0, 511.0)), "This proxy's slot in SHARED_BUDGET_FD";
    PEER_CIDRS Text "" None, "Networks whose pull ports may be dialled, separated by commas; empty: RFC 1918, 100.64.0.0/10, ULA and the own address's /24 or /64. Loopback must be named. Link-local, multicast, unspecified, IPv4-mapped and metadata addresses never";
    INLINE_THRESHOLD_BYTES Bytes "32KiB" Some((0.0, GIB)), "A payload below it travels inside the request";
    HEAP_THRESHOLD_BYTES Bytes "32KiB" Some((0.0, 16_777_216.0)), "An object below it lies on the heap rather than in a memfd";
    BUFFER_BYTES Bytes "512MiB" Some((1_048_576.0, 1024.0 * GIB)), "Budget for bytes held and, separately counted, bytes being received. In force is the smaller of it and half of what the own cgroup's memory limit leaves beside 32 MiB for the process itself (half of a limit below 64 MiB)";
    BUFFER_OBJECTS Count "200000" Some((1.0, 10_000_000.0)), "Objects held at once; each costs about 500 bytes beside its payload";
    PUT_WAIT_SECONDS Seconds "5" Some((0.0, 300.0)), "How long a put waits for room before `buffer-full`";
    PUT_WAITERS Count "256" Some((1.0, 65536.0)), "Puts that wait at once; more are refused with `buffer-full`";
    PUT_TTL_SECONDS Seconds "300" Some((0.001, 86400.0)), "Expiry of a put that names none";
    TTL_SECONDS_MAX Seconds "3600" Some((1.0, 604_800.0)), "Longest expiry a put may ask for";
    ATTEMPTS_EXTRA Count "8" Some((0.0, 1_000_000.0)), "Leases an object grants beyond its retrievals";
    LEASE_SECONDS Seconds "30" Some((0.1, 3600.0)), "A lease without progress lapses after it";
    PULL_IDLE_TIMEOUT_SECONDS Seconds "30" Some((0.05, 3600.0)), "A pull without progress ends after it with `pull-idle-timeout`";
    CONNECT_TIMEOUT_SECONDS Seconds "2" Some((0.01, 300.0)), "Connecting to a producer ends after it with `producer-unreachable`";
    PULL_RESUMES Count "4" Some((0.0, 100.0)), "How often one pull is continued on a new connection";
    PULL_CONNECTIONS Count "1024" Some((1.0, 65536.0)), "Connections the pull port serves at once; more are closed at once. Each costs about 16 KiB";
    PULL_PEER_CONNECTIONS Count "16" Some((1.0, 1024.0)), "Connections to one producer at once; further pulls wait in order";
    PULLS Count "256" Some((1.0, 65536.0)), "Pulls at once as consumer; each streams through one block (1 MiB); further ones wait in order";
    PULL_CONGESTION Text "auto" None, "TCP congestion control of pulls: a kernel name, `system`, or `auto` (loopback: reno; else the system's)";
    PULL_TLS Text "off" None, "Mutual TLS of the pull port: `off`, or `require`; the same at every proxy of a trust domain. Certificates come from the key ring and rotate with it; costs `sendfile`, so about a copy and a cipher a byte";
    HANDOVER_DIR Text "" None, "Directory of the hand-over sockets of one machine's proxies; empty: off";
    INGRESS Text "" None, "Address `HOST:PORT` to which calls to services go (local platform's ingress); empty: the called host itself, port 80";
    SERVICE_DOMAIN Text "svc.cluster.local" None, "Domain of services: `NAME.NAMESPACE.DOMAIN`; `localhost` on the local platform";
    PEERS_KNOWN Text "learn" None, "`all`: every service of the domain has a queue-proxy of ours (local platform); `learn`: once an answer said `Zipline-Capable`, for 60 s";
    TRANSFER Text "zipline" None, "Transfer method of egress, invoke and SDKs: `zipline`, `inline`, `s3`, `redis`";
    INVOKE_TIMEOUT_SECONDS Seconds "300" Some((0.1, 86400.0)), "Whole-call limit of /v1/invoke and of swapped egress calls";
    DRAIN_QUIET_SECONDS Seconds "30" Some((0.0, 3600.0)), "After SIGTERM requests are served until this long passed without one";
    GRACE_SECONDS Seconds "" Some((0.0, 86400.0)), "Limit over the whole drain; empty: REVISION_TIMEOUT_SECONDS";
    DURABILITY Text "none" None, "Durability of a put that names none: `none`, `drain` (what is unread at a planned end is written to the durable tier) or `always` (written before the put is answered); the last two need TIER";
    TIER Text "" None, "Name of the durable tier, as references carry it: 1 to 32 of a-z, 0-9, - and _; the same at every proxy of a trust domain that uses it. Empty: none, and nothing ever touches a store";
    TIER_URL Text "" None, "Where the tier is: `s3://BUCKET` or `s3://BUCKET/PREFIX`";
    TIER_ENDPOINT Text "" None, "Endpoint of an S3-compatible store, `http://HOST:PORT` or `https://HOST`; empty: AWS";
    TIER_REGION Text "us-east-1" None, "Region that requests to the tier are signed for";
    TIER_CREDENTIALS_FILE Text "" None, "JSON file `{\"access_key_id\", \"secret_access_key\", \"session_token\"?}`, read at the start (absent: no signature, with a warning); empty: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or no signature";
    TIER_TRANSFERS Count "4" Some((1.0, 64.0)), "Copies written to the tier at once, and separately read from it; each takes up to 16 MiB while it is written, 1 MiB while it is read";
    TIER_TIMEOUT_SECONDS Seconds "10" Some((0.05, 300.0)), "A request to the tier without an answer fails after it; it is tried again 3 times, then `store-unavailable`";
    TIER_SWEEP_SECONDS Seconds "600" Some((0.0, 86400.0)), "How often this proxy looks, in one of 256 parts of the tier chosen at random, for copies of producers that died before they expired, and removes them; 0: never";
    SPILL_DIR Text "" None, "Directory on a local disk to which objects go when the buffer is three quarters full, encrypted with a key that dies with the process; empty: off";
    SPILL_BYTES Bytes "4GiB" Some((1_048_576.0, 65536.0 * GIB)), "Bytes of objects in SPILL_DIR";
    WORKER_THREADS Count "1" Some((1.0, 256.0)), "Threads of the data plane's runtime";
    CORE_DUMPS Text "off" None, "`off`: the process leaves no core dump, and no other process of its uid can trace it or read its memory, where keys and payloads are; `on`: debuggers can";
    LOG Text "info" None, "Log filter, as `tracing` directives";
    API Text "" None, "For functions: where their queue-proxy's local API is, `unix:/PATH`, `unix:@NAME` or `http://HOST:PORT`";
    S3_ENDPOINT Text "" None, "For functions under `s3`: `http://HOST:PORT` or `https://HOST` of the S3 service; empty: AWS' own in S3_REGION";
    S3_BUCKET Text "" None, "For functions under `s3`: the bucket that payloads lie in, as objects `zipline/KEY`";
    S3_REGION Text "" None, "For functions under `s3`: region that requests are signed for; empty: AWS_REGION, else `us-east-1`. Credentials come from the usual AWS variables";
    REDIS_URL Text "" None, "For functions under `redis`: `redis://[[USER]:PASSWORD@]HOST:PORT[/DATABASE]`; payloads lie in keys `zipline:KEY`";
    STORE_TIMEOUT_SECONDS Seconds "60" Some((0.1, 3600.0)), "For functions under `s3` and `redis`: limit over one operation of the store, its retries included";
    STORE_RETRIES Count "6" Some((0.0, 100.0)), "For functions under `s3` and `redis`: how often an operation is tried again that the store refused for now (503, throttling) or that could not reach it";
    STORE_INLINE_BYTES Bytes "32KiB" Some((0.0, GIB)), "For functions under `s3` and `redis`: a call's payload below it travels inside the request; 0: only an empty one does. What is put goes into the store, whatever its size";
    STORE_COUNTERS Text "" None, "For functions under `s3` and `redis`: a folder in which each client keeps a JSON file of the operations and bytes it has had; empty: none";
    EGRESS_URL Text "" None, "For functions: base URL of the egress; `/v1/invoke/NAME` follows";
}

/// Those that say where functions find the stores of `s3` and `redis`, and how. A platform hands them on to functions.
pub const OF_STORES: [Setting; 8] =
    [S3_ENDPOINT, S3_BUCKET, S3_REGION, REDIS_URL, STORE_TIMEOUT_SECONDS, STORE_RETRIES, STORE_INLINE_BYTES, STORE_COUNTERS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_unique_and_numeric_defaults_lie_in_their_range() {
        for (i, setting) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|other| other.variable != setting.variable));
            if let (Some((low, high)), Ok(value)) = (setting.range, setting.default.parse::<f64>()) {
                assert!((low..=high).contains(&value), "{}", setting.variable);
            }
        }
    }
}
