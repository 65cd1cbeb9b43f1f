"""Start a queue-proxy (the real one, or any program that reads the same environment) and look at it.

PROXY_CMD   the program, split like a shell line (default: the debug build of this repository)
PROXY_LOGS  folder for the proxies' logs (default: a temporary folder)

As a program: `launcher.py [--user-port 8080] [NAME=VALUE ...]` runs one proxy in the foreground.
"""
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

PROXY_CMD = os.environ.get("PROXY_CMD") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "target", "debug", "zipline-queue-proxy")
PORT, H2_PORT, TLS_PORT = 8012, 8013, 8112
ADMIN, STATS, METRICS, PROFILE = 8022, 9090, 9091, 8008
USER_PORT = 8080
POD = "shop-00001-deployment-6d4f-xyz"

_logs = os.environ.get("PROXY_LOGS") or tempfile.mkdtemp(prefix="qp-logs-")
os.makedirs(_logs, exist_ok=True)


def environment(**override):
    """The variables the revision controller sets on the sidecar, with quiet defaults.
    An override of None removes the variable."""
    env = {
        "SERVING_NAMESPACE": "default",
        "SERVING_SERVICE": "shop",
        "SERVING_CONFIGURATION": "shop",
        "SERVING_REVISION": "shop-00001",
        "SERVING_POD": POD,
        "SERVING_POD_IP": "127.0.0.1",
        "QUEUE_SERVING_PORT": str(PORT),
        "QUEUE_SERVING_TLS_PORT": str(TLS_PORT),
        "CONTAINER_CONCURRENCY": "0",
        "REVISION_TIMEOUT_SECONDS": "300",
        "REVISION_RESPONSE_START_TIMEOUT_SECONDS": "0",
        "REVISION_IDLE_TIMEOUT_SECONDS": "0",
        "SERVING_LOGGING_CONFIG": "",
        "SERVING_LOGGING_LEVEL": "",
        "USER_PORT": str(USER_PORT),
        "SYSTEM_NAMESPACE": "knative-serving",
        "SERVING_READINESS_PROBE": "",
        "HOST_IP": "127.0.0.1",
        "ENABLE_HTTP2_AUTO_DETECTION": "false",
        "ENABLE_HTTP_FULL_DUPLEX": "false",
        "ENABLE_MULTI_CONTAINER_PROBES": "false",
        "ROOT_CA": "",
        "QUEUE_PROXY_TLS_MIN_VERSION": "",
        "QUEUE_PROXY_TLS_MAX_VERSION": "",
        "QUEUE_PROXY_TLS_CIPHER_SUITES": "",
        "QUEUE_PROXY_TLS_CURVE_PREFERENCES": "",
        "OBSERVABILITY_CONFIG": json.dumps({
            "tracing": {"protocol": "none"}, "metrics": {"protocol": "none"}, "runtime": {},
            "requestMetrics": {"protocol": "prometheus"},
            "enableRequestLog": False,
        }),
        "PATH": os.environ.get("PATH", ""),
    }
    for k in ("GOMAXPROCS", "GOGC", "GOMEMLIMIT", "RUST_LOG", "TOKIO_WORKER_THREADS"):
        if k in os.environ:
            env[k] = os.environ[k]
    for k, v in override.items():
        k = k.upper()
        if v is None:
            env.pop(k, None)
        elif isinstance(v, bool):
            env[k] = "true" if v else "false"
        elif isinstance(v, (dict, list)):
            env[k] = json.dumps(v)
        else:
            env[k] = str(v)
    return env


def listening(port, host="127.0.0.1", timeout=0.2):
    try:
        socket.create_connection((host, port), timeout).close()
        return True
    except OSError:
        return False


def wait_for(cond, timeout=10, step=0.02, what="condition"):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        v = cond()
        if v:
            return v
        time.sleep(step)
    raise TimeoutError(f"{what} not reached in {timeout} s")


class Proxy:
    def __init__(self, wait=True, cmd=None, **env):
        self.env = environment(**env)
        self.port = int(self.env.get("QUEUE_SERVING_PORT", PORT))
        fd, self.log_path = tempfile.mkstemp(prefix="proxy-", suffix=".log", dir=_logs)
        self._log = os.fdopen(fd, "wb")
        t0 = time.monotonic()
        self.proc = subprocess.Popen(shlex.split(cmd or PROXY_CMD), env=self.env, stdin=subprocess.DEVNULL,
                                     stdout=self._log, stderr=subprocess.STDOUT)
        self.pid = self.proc.pid
        if wait:
            want = [self.port, ADMIN, STATS]
            if "prometheus" in self.env.get("OBSERVABILITY_CONFIG", ""):
                want.append(METRICS)
            wait_for(lambda: self.proc.poll() is not None or all(listening(p) for p in want), 15, 0.003,
                     f"ports {want}")
            if self.proc.poll() is not None:
                raise RuntimeError(f"proxy ended with {self.proc.returncode}:\n{self.log()}")
        self.started_in = time.monotonic() - t0

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def rss(self):
        with open(f"/proc/{self.pid}/status") as f:
            return next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmRSS"))

    def peak_rss(self):
        with open(f"/proc/{self.pid}/status") as f:
            return next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmHWM"))

    def reset_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w") as f:
            f.write("5")

    def cpu(self):
        with open(f"/proc/{self.pid}/stat") as f:
            p = f.read().rsplit(")", 1)[1].split()
        return (int(p[11]) + int(p[12])) / os.sysconf("SC_CLK_TCK")

    def alive(self):
        return self.proc.poll() is None

    def term(self):
        self.proc.send_signal(signal.SIGTERM)

    def wait(self, timeout):
        return self.proc.wait(timeout)

    def stop(self):
        if self.alive():
            self.proc.kill()
            self.proc.wait(10)
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.stop()


if __name__ == "__main__":
    over = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    if "--user-port" in sys.argv:
        over["USER_PORT"] = sys.argv[sys.argv.index("--user-port") + 1]
    c = shlex.split(PROXY_CMD)
    os.execve(c[0], c, environment(**over))
