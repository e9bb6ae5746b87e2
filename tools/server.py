"""A tracking server for development: `mlflow server` with its runs in PostgreSQL and its artifacts in Cloud Storage.

Clients read and write artifacts through this server.

make server                       starts the parts that do not run, and prints how to use them
make server AUTH=true             the same with a user and a password
make server ARTIFACT_BUCKET=name  artifacts in a real bucket; without one, in an emulator on this machine
make server-stop
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil

from tools.machine import answers, born, free_port, postgres_user, program, refuse_unreachable, taken, within

PROJECT = Path(__file__).resolve().parent.parent
#: The default folder of the server's files. If the caller is root, PostgreSQL runs as its own user, who cannot enter a
#: folder in root's home.
FOLDER = Path("/var/lib/purchase-predict") if os.geteuid() == 0 else PROJECT / ".server"
PARTS = ("postgres", "storage", "mlflow")
EMULATED_BUCKET = "purchase-predict"
USER = "admin"

#: With this host, the server listens at every address of the machine.
_EVERY_ADDRESS = "0.0.0.0"
#: Time limit in seconds for a started part to answer. It is long because a busy machine takes long to import MLflow.
_PATIENCE = 120.0
#: Maximum length in bytes of a Unix socket's path.
_LONGEST_SOCKET = 107


@dataclass(frozen=True)
class Config:
    """The settings of a server's first start, kept so that later starts use the same addresses."""

    host: str
    port: int
    #: Port of the emulator; 0 for a real bucket.
    storage_port: int
    bucket: str
    #: Password of the user `USER`; empty without authentication.
    password: str
    secret_key: str

    @property
    def uri(self) -> str:
        """What clients set as MLFLOW_TRACKING_URI."""
        return f"http://{self.host}:{self.port}"

    @property
    def names(self) -> list[str]:
        """The host names under which clients may call the server. Under other names, MLflow's pages show no runs."""
        mine = [self.host]
        if self.host == _EVERY_ADDRESS:
            addresses = [one for of_card in psutil.net_if_addrs().values() for one in of_card]
            mine += [socket.gethostname(), *(one.address for one in addresses if one.family == socket.AF_INET)]
        return sorted({"localhost", "127.0.0.1", *mine})

    @property
    def storage(self) -> dict[str, str]:
        """The variable that makes Google's client use the emulator; empty for a real bucket."""
        return {"STORAGE_EMULATOR_HOST": f"http://{self.host}:{self.storage_port}"} if self.storage_port else {}

    @property
    def client(self) -> dict[str, str]:
        """The variables that a client needs."""
        login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.password} if self.password else {}
        return {"MLFLOW_TRACKING_URI": self.uri} | login | self.storage


class Server:
    """A tracking server, its database and its bucket, all of it in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    # ---- settings and state --------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The settings of the server's first start.

        Raises:
            click.ClickException: no server was ever started in this folder.
        """
        try:
            return Config(**json.loads(self._file("config.json").read_text()))
        except FileNotFoundError:
            raise click.ClickException(f"{self.folder}: no server was ever started here: make server") from None

    def configure(self, host: str, port: int, bucket: str, auth: bool) -> None:
        """Decides addresses, bucket and password at the first start. Later starts must ask for the same settings.

        Args:
            host: the address at which the server listens.
            port: the server's port; 0: any free port.
            bucket: a bucket of Cloud Storage; empty: an emulated one.
            auth: whether clients need a user and a password.

        Raises:
            click.ClickException: the port is taken, or the folder holds a server with other settings.
        """
        bucket = bucket.removeprefix("gs://").rstrip("/")
        if self._file("config.json").exists():
            old = self.config
            asked = (host, port or old.port, bucket or EMULATED_BUCKET, auth)
            if asked != (old.host, old.port, old.bucket, bool(old.password)):
                raise click.ClickException(
                    f"{self.folder} holds a server at {old.uri} with bucket {old.bucket} and "
                    f"{'' if old.password else 'no '}authentication: use these settings, or STATE=<another folder>"
                )
            return
        if port and taken(host, port):
            raise click.ClickException(f"port {port} of {host} is taken: make server PORT=<another>, or 0 for any")
        self.folder.mkdir(parents=True, exist_ok=True)
        config = Config(
            host,
            port or free_port(host),
            0 if bucket else free_port(host),
            bucket or EMULATED_BUCKET,
            secrets.token_urlsafe(16) if auth else "",
            secrets.token_urlsafe(32) if auth else "",
        )
        self._write("client.env", "".join(f"{name}={value}\n" for name, value in config.client.items()))
        self._write("config.json", json.dumps(asdict(config)))

    def database_uri(self, name: str = "mlflow") -> str:
        """The SQLAlchemy URI of one of the server's databases; its driver, psycopg2, is in the group `servers`."""
        return f"postgresql+psycopg2://mlflow@/{name}?host={self._socket}"

    def running(self, part: str) -> bool:
        """Whether a part (one of `PARTS`) runs."""
        if part == "postgres":
            return self._data.exists() and self._pg("pg_ctl", "status", check=False).returncode == 0
        return self._process(part) is not None

    # ---- start and stop ------------------------------------------------------------------------------------------

    def start(self, parts: Sequence[str] = PARTS) -> None:
        """Starts the parts that do not run, and waits until they answer."""
        start = {"postgres": self._start_postgres, "storage": self._start_storage, "mlflow": self._start_mlflow}
        for part in (part for part in PARTS if part in parts):
            if not self.running(part):
                start[part]()
            if part == "postgres":
                self._create_databases()

    def stop(self, parts: Sequence[str] = PARTS) -> None:
        """Stops the running parts: MLflow first, because it uses the others; the database last."""
        for part in reversed(PARTS):
            if part in parts and self.running(part):
                if part == "postgres":
                    self._pg("pg_ctl", "-m", "fast", "-w", "stop")
                else:
                    self._end(part)

    def dump(self, name: str = "mlflow") -> str:
        """A database as SQL, as pg_dump writes it."""
        command = [program("pg_dump"), "-h", str(self._socket), "-U", "mlflow", name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _start_postgres(self) -> None:
        if not self._data.exists():
            self._create_data()
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._socket}'"
        self._pg("pg_ctl", "-w", "-l", str(self._socket / "log"), "-o", options, "start")

    def _create_databases(self) -> None:
        """Creates the databases that are missing; an earlier start may have been interrupted."""
        login = ["-h", str(self._socket), "-U", "mlflow"]
        names = self._pg("psql", "-X", *login, "-d", "postgres", "-Atc", "SELECT datname FROM pg_database").stdout
        for name in ("mlflow", "auth"):
            if name not in names.split():
                self._pg("createdb", *login, name)

    def _create_data(self) -> None:
        """Creates PostgreSQL's data folder. If a start is interrupted here, the next start begins again."""
        if len(f"{self._socket}/.s.PGSQL.5432".encode()) > _LONGEST_SOCKET:
            raise click.ClickException(f"{self.folder}: too long for PostgreSQL's socket: STATE=<a shorter path>")
        owner = postgres_user()
        if owner:
            refuse_unreachable(self.folder)
        unfinished = self._file("postgres.new")
        for folder in (unfinished, self._socket):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            if owner:
                shutil.chown(folder, owner, owner)
        # No password is needed: PostgreSQL listens on no port, and only the folder's owner can reach the socket.
        given = ["-U", "mlflow", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        self._pg("initdb", "-D", str(unfinished), *given)
        unfinished.rename(self._data)

    def _start_storage(self) -> None:
        config = self.config
        if not config.storage_port:
            return
        emulator = [sys.executable, "-m", "gcp_storage_emulator", "-d", str(self._file("bucket")), "start", "--quiet"]
        where = ["--host", config.host, "--port", str(config.storage_port), "--default-bucket", config.bucket]
        self._begin("storage", [*emulator, *where], {}, f"{config.storage['STORAGE_EMULATOR_HOST']}/storage/v1/b")

    def _start_mlflow(self) -> None:
        config = self.config
        # Passed as variables, because other users of the machine can see command lines.
        environ = {
            **config.storage,
            "MLFLOW_BACKEND_STORE_URI": self.database_uri(),
            "MLFLOW_ARTIFACTS_DESTINATION": f"gs://{config.bucket}/artifacts",
            "MLFLOW_HOST": config.host,
            "MLFLOW_PORT": str(config.port),
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}{port}" for name in config.names for port in ("", ":*")),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{config.port}" for name in config.names),
            "MLFLOW_WORKERS": "2",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs of MLflow's GenAI part
            "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        }
        command = [sys.executable, "-m", "mlflow", "server"]
        if config.password:
            command += ["--app-name", "basic-auth"]
            self._write(
                "auth.ini",
                "[mlflow]\ndefault_permission = READ\nauthorization_function = "
                "mlflow.server.auth:authenticate_request_basic_auth\n"
                f"admin_username = {USER}\ndatabase_uri = {self.database_uri('auth')}\n"
                # Without this cache, the password is hashed again for every request.
                "auth_cache_ttl_seconds = 60\n",
            )
            environ["MLFLOW_AUTH_CONFIG_PATH"] = str(self._file("auth.ini"))
            environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = config.password
            environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = config.secret_key
        self._begin("mlflow", command, environ, f"{config.uri}/health")

    # ---- processes -----------------------------------------------------------------------------------------------

    def _begin(self, part: str, command: list[str], environ: dict[str, str], answers_at: str) -> None:
        # The caller's MLFLOW_ variables are settings of a client, so the server must not inherit them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with self._file(f"{part}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=inherited | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._write(f"{part}.pid", f"{process.pid}\n{born(process.pid)}")

        def up() -> bool:
            if process.poll() is not None:
                raise click.ClickException(f"{part} ended at once: see {self._file(f'{part}.log')}")
            return answers(answers_at)

        if not within(_PATIENCE, up):
            self._end(part)
            raise click.ClickException(f"{part} does not answer at {answers_at}: see {self._file(f'{part}.log')}")

    def _process(self, part: str) -> int | None:
        """The id of a part's process; None if the part was not started here, or its process has ended.

        The process is compared by `born`, because a new process may have the same id.
        """
        try:
            pid, name = self._file(f"{part}.pid").read_text().split("\n", 1)
        except FileNotFoundError:
            return None
        return int(pid) if name and born(int(pid)) == name else None

    def _end(self, part: str) -> None:
        pid = self._process(part)
        if pid is None:
            return
        os.killpg(pid, signal.SIGTERM)
        if not within(10, lambda: self._process(part) is None):
            os.killpg(pid, signal.SIGKILL)
            within(10, lambda: self._process(part) is None)
        self._file(f"{part}.pid").unlink()

    def _pg(self, name: str, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        user = postgres_user()
        done: subprocess.CompletedProcess[str]
        try:
            done = subprocess.run(
                [program(name), *(["-D", str(self._data)] if name == "pg_ctl" else []), *arguments],
                cwd="/",  # the caller's folder may be closed to PostgreSQL's user
                check=check,
                # `pg_ctl start` gets no pipe: the database would inherit the pipe and keep it open until the database
                # stops. The database writes its log to a file (`-l`).
                stdout=subprocess.DEVNULL if "start" in arguments else subprocess.PIPE,
                stderr=subprocess.DEVNULL if "start" in arguments else subprocess.PIPE,
                text=True,
                **({"user": user, "group": user, "extra_groups": []} if user else {}),  # type: ignore[call-overload]
            )
        except subprocess.CalledProcessError as error:
            problem = " ".join((error.stderr or "").split()) or f"see {self._socket / 'log'}"
            raise click.ClickException(f"{name}: {problem}") from error
        return done

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self._file("postgres")

    @property
    def _socket(self) -> Path:
        return self._file("socket")

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _write(self, name: str, text: str) -> None:
        """Writes a file completely or not at all. Only its owner can read it."""
        new = self._file(name + ".new")
        new.touch(0o600)
        new.write_text(text)
        new.replace(self._file(name))


# ---- commands ----------------------------------------------------------------------------------------------------


@click.group()
@click.option(
    "--state", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Folder of the server's files"
)
@click.pass_context
def main(context: click.Context, state: Path) -> None:
    """A tracking server on PostgreSQL with its artifacts in Cloud Storage."""
    context.obj = Server(state)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=5000, show_default=True, help="0: any free port")
@click.option("--bucket", default="", help="Cloud Storage bucket of the artifacts; empty: an emulator")
@click.option("--auth", type=bool, default=False, help="Ask clients for user and password")
@click.pass_obj
def start(server: Server, host: str, port: int, bucket: str, auth: bool) -> None:
    """Start the parts that do not run yet."""
    server.configure(host, port, bucket, auth)
    server.start()
    config = server.config
    _link_client(server.folder)
    click.echo(f"tracking server {config.uri}, artifacts in gs://{config.bucket}, its files in {server.folder}")
    click.echo(f"use it:     mlflow --env-file {server.folder}/client.env run . --env-manager local -P max_evals=1")
    click.echo(f"or in .env: MLFLOW_TRACKING_URI={config.uri}")


def _link_client(folder: Path) -> None:
    """Links `.server/client.env` of the checkout to the client settings of a server in another folder."""
    link = PROJECT / ".server" / "client.env"
    # The file of a server in `.server` must not be replaced: that server writes it only at its first start.
    own_server = link.exists() and not link.is_symlink()
    if folder.resolve() == link.parent.resolve() or own_server:
        return
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve() / "client.env")


@main.command()
@click.pass_obj
def stop(server: Server) -> None:
    """Stop the server; runs, models and artifacts are kept."""
    server.stop()


@main.command()
@click.pass_obj
def status(server: Server) -> None:
    """Print which parts run."""
    for part in PARTS:
        click.echo(f"{part:8}  {'running' if server.running(part) else 'stopped'}")


if __name__ == "__main__":
    main()
