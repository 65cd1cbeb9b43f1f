//! A real `redis-server`, without persistence.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zipline_contract::settings;

use crate::error::ServerError;
use crate::install::{Server, find};
use crate::ports;
use crate::process::{Process, folder, secret};

const NAME: &str = "Redis";
/// Starts with ever new ports; another program may take one in between.
const STARTS_MAX: usize = 3;

/// A running Redis. Dropping it kills it.
pub struct Redis {
    process: Process,
    address: SocketAddr,
    password: String,
    version: String,
}

impl Redis {
    /// Starts the installed one and waits until it serves.
    ///
    /// # Errors
    /// [`ServerError::NotInstalled`], [`ServerError::Ended`], [`ServerError::NotReady`], [`ServerError::System`].
    pub async fn start() -> Result<Self, ServerError> {
        let installed = find(Server::Redis)?;
        let mut tries = 1;
        loop {
            match Self::start_once(&installed.program, &installed.version).await {
                Err(ServerError::Ended { .. }) if tries < STARTS_MAX => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn start_once(program: &std::path::Path, version: &str) -> Result<Self, ServerError> {
        let [port] = ports::free().map_err(ServerError::system("a free port for Redis"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let password = secret(16)?;
        let folder = folder(NAME)?;
        let path = folder.path().join("redis.conf");
        // In a file, because arguments can be read by every user of the machine.
        let configuration = format!(
            "bind {}\nport {port}\ndaemonize no\nsave \"\"\nappendonly no\ndir {}\nlogfile redis.log\nrequirepass {password}\n",
            address.ip(),
            folder.path().display(),
        );
        fs::write(&path, configuration).map_err(ServerError::system("the configuration of Redis"))?;
        let log = folder.path().join("redis.log");
        let mut process = Process::start(NAME, program, &[path.display().to_string()], folder, log, Vec::new())?;
        process.ready(async || ping(address, &password).await).await?;
        Ok(Self { process, address, password, version: version.to_owned() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, password and all.
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The URL that leads to it through a relay at that address.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("redis://:{}@{address}/0", self.password)
    }

    /// Its version, for example `7.0.15`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The variables that lead an SDK to it. `ZIPLINE_TRANSFER` is not among them.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![(settings::REDIS_URL.variable, self.url())]
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis {} at {}, pid {}", self.version, self.address, self.pid())
    }
}

async fn ping(address: SocketAddr, password: &str) -> io::Result<()> {
    const ANSWER: &[u8] = b"+OK\r\n+PONG\r\n";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes()).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}
