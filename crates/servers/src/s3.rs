//! A real S3-compatible server: SeaweedFS with master, volume server, filer and S3 gateway in one process.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zipline_contract::settings;

use crate::error::ServerError;
use crate::install::{Server, find};
use crate::ports;
use crate::process::{Process, folder, secret};

const NAME: &str = "SeaweedFS";
/// Bucket of every server; made by the first upload.
const BUCKET: &str = "zipline";
/// What the server is told to be, and what requests are signed for.
const REGION: &str = "us-east-1";
/// Starts with ever new ports; another program may take one in between.
const STARTS_MAX: usize = 3;
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 4096;

/// A running S3 server. Dropping it kills it.
pub struct S3 {
    process: Process,
    address: SocketAddr,
    access_key: String,
    secret_key: String,
    version: String,
}

/// The ports of one server, each HTTP and gRPC.
struct Ports([u16; 8]);

impl S3 {
    /// Starts the installed one and waits until it takes uploads.
    ///
    /// # Errors
    /// [`ServerError::NotInstalled`], [`ServerError::Ended`], [`ServerError::NotReady`], [`ServerError::System`].
    pub async fn start() -> Result<Self, ServerError> {
        let installed = find(Server::S3)?;
        let mut tries = 1;
        loop {
            match Self::start_once(&installed.program, &installed.version).await {
                Err(ServerError::Ended { .. }) if tries < STARTS_MAX => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn start_once(program: &Path, version: &str) -> Result<Self, ServerError> {
        let ports = Ports(ports::free().map_err(ServerError::system("free ports for SeaweedFS"))?);
        let (access_key, secret_key) = (secret(10)?, secret(20)?);
        let folder = folder(NAME)?;
        let data = folder.path().join("data");
        fs::create_dir(&data).map_err(ServerError::system("a data folder for SeaweedFS"))?;
        let identities = folder.path().join("identities.json");
        let identity = json!({"identities": [{
            "name": "zipline",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        fs::write(&identities, identity.to_string()).map_err(ServerError::system("the identities of SeaweedFS"))?;
        let arguments = ports.arguments(folder.path());
        let [s3, master] = [ports.0[6], ports.0[0]].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let log = folder.path().join("weed.INFO");
        let mut process = Process::start(NAME, program, &arguments, folder, log, ports.sockets())?;
        process.ready(async || takes_uploads(master, s3).await).await?;
        Ok(Self { process, address: s3, access_key, secret_key, version: version.to_owned() })
    }

    /// Where its S3 gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its endpoint, `http://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bucket to use; the first upload makes it.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The region that requests are signed for.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The key id that may read and write.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Its secret.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// Its name and version, for example `SeaweedFS 4.48`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The variables that lead an SDK to it. `ZIPLINE_TRANSFER` is not among them.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment_at(self.address)
    }

    /// The variables that lead an SDK to it through a relay at that address.
    pub fn environment_at(&self, address: SocketAddr) -> Vec<(&'static str, String)> {
        vec![
            (settings::S3_ENDPOINT.variable, format!("http://{address}")),
            (settings::S3_BUCKET.variable, BUCKET.to_owned()),
            (settings::S3_REGION.variable, REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
        ]
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3 ({}) at {}, pid {}", self.version, self.address, self.pid())
    }
}

impl Ports {
    fn arguments(&self, folder: &Path) -> Vec<String> {
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] = self.0;
        let at = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            format!("-logdir={}", folder.display()),
            "-alsologtostderr=false".to_owned(),
            "server".to_owned(),
            format!("-dir={}", at("data")),
            "-ip=127.0.0.1".to_owned(),
            "-ip.bind=127.0.0.1".to_owned(),
            format!("-master.port={master}"),
            format!("-master.port.grpc={master_grpc}"),
            "-master.telemetry=false".to_owned(),
            // As many volumes as the disk has room for, and room reclaimed as soon as a tenth of one is deleted objects.
            "-master.volumeSizeLimitMB=1024".to_owned(),
            "-master.garbageThreshold=0.1".to_owned(),
            "-volume.max=0".to_owned(),
            "-volume.preStopSeconds=0".to_owned(),
            format!("-volume.port={volume}"),
            format!("-volume.port.grpc={volume_grpc}"),
            "-filer".to_owned(),
            format!("-filer.port={filer}"),
            format!("-filer.port.grpc={filer_grpc}"),
            format!("-filer.localSocket={}", at("filer.sock")),
            "-s3".to_owned(),
            format!("-s3.port={s3}"),
            format!("-s3.port.grpc={s3_grpc}"),
            format!("-s3.localSocket={}", at("s3.sock")),
            format!("-s3.config={}", at("identities.json")),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
        ];
        arguments.into()
    }

    /// Unix sockets that SeaweedFS makes at a place of its own choice, named by port.
    fn sockets(&self) -> Vec<PathBuf> {
        let [_, master, _, volume, _, filer, _, s3] = self.0;
        [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)]
            .map(|(part, port)| PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock")))
            .into()
    }
}

/// Whether the master can give out room on a volume server and the gateway asks for a signature: then an upload works.
async fn takes_uploads(master: SocketAddr, s3: SocketAddr) -> io::Result<()> {
    let assigned = get(master, "/dir/assign").await?;
    if !assigned.contains("\"fid\"") {
        return Err(io::Error::other(format!("no room given out yet: {}", first_line(&assigned))));
    }
    let unsigned = get(s3, "/").await?;
    if !unsigned.starts_with("HTTP/1.0 403") && !unsigned.starts_with("HTTP/1.1 403") {
        return Err(io::Error::other(format!("the gateway answered {}", first_line(&unsigned))));
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A request, and the beginning of its answer.
async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
