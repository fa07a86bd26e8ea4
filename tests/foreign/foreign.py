"""foreign: a client and a runner that know this engine only from the contract, as the existing ones in Go do.

The messages are generated at the start from the .proto files without everything that was added to the contract (all
fields from number 100 up): so no test can use an addition, and every answer carries fields its reader does not know.
Requests are encoded like Go does it: map entries in random order (the seed is printed).

    Server   `turboci serve` ($TURBOCI_BIN) on a temporary file; call("WriteNodes", request), watch(...)
    Runner   a gRPC server with the StageRunner service; what it is sent waits in a queue
    Watch    a thread that reads a stream; until(predicate) waits for an event

Everything waits for events, at most WAIT seconds.
"""
import atexit
import concurrent.futures
import importlib
import os
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading

import grpc
from google.protobuf import struct_pb2

WAIT = 30
ROOT = pathlib.Path(os.environ.get("TURBOCI_SOURCE") or pathlib.Path(__file__).resolve().parents[2])
BIN = os.environ.get("TURBOCI_BIN")
SEED = int(os.environ.get("TURBOCI_SEED") or random.SystemRandom().randrange(1 << 32))
rng = random.Random(SEED)
print(f"foreign: TURBOCI_SEED={SEED}", file=sys.stderr)

NAMES = ("common", "workplan", "check", "stage", "stagerunner", "service")
ADDED = re.compile(r"=\s*1\d\d\s*;")  # field numbers from 100 up


def _generate():
    """The contract's messages, as modules; returns them merged into one namespace."""
    folder = tempfile.mkdtemp(prefix="turboci-foreign-")
    atexit.register(shutil.rmtree, folder, True)
    package = pathlib.Path(folder, "proto", "turboci", "v1")
    package.mkdir(parents=True)
    for name in NAMES:
        text = (ROOT / "proto" / "turboci" / "v1" / f"{name}.proto").read_text()
        (package / f"{name}.proto").write_text(
            "".join(line for line in text.splitlines(True) if not ADDED.search(line.split("//")[0])))
    out = pathlib.Path(folder, "out")
    out.mkdir()
    protoc = subprocess.run(["protoc", "-I", package.parents[1], "--python_out", out,
                             *(package / f"{name}.proto" for name in NAMES)], stderr=subprocess.PIPE, text=True)
    assert protoc.returncode == 0, protoc.stderr  # it also complains of imports that only additions need
    sys.path.insert(0, str(out))
    namespace = {}
    for name in NAMES:
        module = importlib.import_module(f"turboci.v1.{name}_pb2")
        for message in module.DESCRIPTOR.message_types_by_name.values():
            assert all(field.number < 100 for field in message.fields), message.full_name
        namespace.update({key: value for key, value in vars(module).items() if not key.startswith("_")})
    return namespace


_messages = _generate()
globals().update(_messages)

ORCHESTRATOR = "/turboci.v1.TurboCIOrchestrator/"
RUNNER = "turboci.v1.StageRunner"


# ---- encoding like Go ----

def _varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _framed(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def encode(message):
    """The message's bytes with the entries of every map shuffled."""
    out = b""
    for field, value in message.ListFields():
        if _is_map(field):
            entries = []
            for key in value:
                one = type(message)()
                inner = getattr(one, field.name)
                if field.message_type.fields_by_name["value"].message_type is not None:
                    # The entry by hand: its value may hold maps again.
                    entries.append(_framed(field.number, _framed(1, key.encode()) + _framed(2, encode(value[key]))))
                else:
                    inner[key] = value[key]
                    entries.append(one.SerializeToString())
            rng.shuffle(entries)
            out += b"".join(entries)
        elif field.message_type is not None:
            for item in value if field.label == field.LABEL_REPEATED else (value,):
                out += _framed(field.number, encode(item))
        else:
            one = type(message)()
            if field.label == field.LABEL_REPEATED:
                getattr(one, field.name).extend(value)
            else:
                setattr(one, field.name, value)
            out += one.SerializeToString()
    return out


def struct(**values):
    out = struct_pb2.Struct()
    out.update(values)
    return out


def added_field(number, value):
    """A number in a field that was added to the contract, as bytes: for what the contract alone cannot ask for."""
    return _varint(number << 3) + _varint(value)


def unknown_field(number=900, payload=b"from a newer client"):
    """Bytes to append to any message."""
    return _framed(number, payload)


# ---- the server ----

class Server:
    def __init__(self, *options, listen="127.0.0.1:0"):
        assert BIN, "TURBOCI_BIN does not name the turboci program"
        self.folder = tempfile.mkdtemp(prefix="turboci-foreign-")
        self.errors = open(os.path.join(self.folder, "stderr"), "w+")
        self.process = subprocess.Popen(
            [BIN, "serve", "--listen", listen, "--db", os.path.join(self.folder, "turboci.db"), *options],
            stdout=subprocess.PIPE, stderr=self.errors, text=True)
        atexit.register(self.stop)
        line = self.process.stdout.readline()
        found = re.match(r"listening on (\S+)", line)
        if not found:
            self.errors.seek(0)
            raise AssertionError(f"turboci serve said {line!r}: {self.errors.read()}")
        self.address = found.group(1)
        self.channel = grpc.insecure_channel(self.address)

    def call(self, method, request=None, *, append=b"", compression=None, **fields):
        """One unary call; the request is given whole, or as fields."""
        if request is None:
            request = _messages[method + "Request"](**fields)
        stub = self.channel.unary_unary(ORCHESTRATOR + method, lambda message: encode(message) + append,
                                        _messages[method + "Response"].FromString)
        return stub(request, timeout=WAIT, compression=compression)

    def plan(self, **metadata):
        return self.call("CreateWorkPlan", metadata=metadata).work_plan.id

    def write(self, plan, checks=(), stages=(), **options):
        return self.call("WriteNodes", work_plan_id=plan, checks=checks, stages=stages, **options)

    def nodes(self, plan):
        """All nodes by id."""
        found = self.call("QueryNodes", work_plan_id=plan, include_checks=True, include_stages=True)
        return {node.id: node for node in (*found.checks, *found.stages)}

    def watch(self, plan, **fields):
        fields = {"include_checks": True, "include_stages": True, **fields}
        return Watch(self, _messages["WatchWorkPlanRequest"](work_plan_id=plan, **fields))

    def memory_peak_mb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024

    def stop(self):
        if self.process.poll() is None:
            self.channel.close()
            self.process.terminate()
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.folder, True)
        return self.process.returncode


class Watch:
    def __init__(self, server, request):
        stub = server.channel.unary_stream(ORCHESTRATOR + "WatchWorkPlan", encode,
                                           _messages["WorkPlanEvent"].FromString)
        self.stream = stub(request)
        self.events, self.error, self.changed = [], None, threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for event in self.stream:
                with self.changed:
                    self.events.append(event)
                    self.changed.notify_all()
        except grpc.RpcError as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def until(self, predicate):
        """Waits until an event fits (the ones that came before count)."""
        with self.changed:
            done = self.changed.wait_for(lambda: self.error or any(map(predicate, self.events)), WAIT)
            if not done or not any(map(predicate, self.events)):
                raise AssertionError(f"watched in vain: {self.error}\n{self.events}")
            return next(event for event in self.events if predicate(event))

    def until_complete(self):
        return self.until(lambda event: event.WhichOneof("event") == "completed_event").completed_event

    def until_stage(self, stage_id, state):
        return self.until(lambda event: event.stage_event.stage_id == stage_id
                          and event.stage_event.new_state == state).stage_event

    def until_check(self, check_id, state):
        return self.until(lambda event: event.check_event.check_id == check_id
                          and event.check_event.new_state == state).check_event

    def until_ended(self):
        with self.changed:
            assert self.changed.wait_for(lambda: self.error, WAIT), "the stream stays open"
            return self.error

    def close(self):
        self.stream.cancel()


# ---- runners ----

def success(request, **data):
    """What a Go runner answers when all went well."""
    return _messages["RunResponse"](
        stage_state=_messages["STAGE_STATE_FINAL"],
        check_updates=[_messages["CheckUpdate"](check_id=check, state=_messages["CHECK_STATE_FINAL"], finalize=True,
                                                result_data=struct(**data))
                       for check in request.assigned_check_ids])


class Runner(grpc.GenericRpcHandler):
    """run and run_async are functions (request, context) -> response; None stands for the usual."""

    def __init__(self, server, runner_id, runner_type, *, address=":{}", modes=None, run=None, run_async=None,
                 register=True, implements=("Run", "RunAsync", "Ping"), **fields):
        self.server, self.implements = server, implements
        self.run, self.run_async = run or (lambda request, context: success(request)), run_async
        self.received = queue.Queue()
        self.grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(8), handlers=(self,))
        port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()
        self.address = address.format(port)
        self.fields = dict(runner_id=runner_id, runner_type=runner_type, address=self.address,
                           supported_modes=modes or [_messages["EXECUTION_MODE_SYNC"]], ttl_seconds=300, **fields)
        self.registration = self.register() if register else None

    def register(self, **changes):
        return self.server.call("RegisterStageRunner", **{**self.fields, **changes})

    def service(self, details):
        service, method = details.method[1:].split("/")
        if service != RUNNER or method not in self.implements:
            return None  # UNIMPLEMENTED
        handlers = {"Run": self._run, "RunAsync": self._run_async, "Ping": self._ping}
        return grpc.unary_unary_rpc_method_handler(handlers[method], _messages[method + "Request"].FromString, encode)

    def _run(self, request, context):
        self.received.put((request, context.time_remaining()))
        return self.run(request, context)

    def _run_async(self, request, context):
        self.received.put((request, context.time_remaining()))
        if self.run_async:
            return self.run_async(request, context)
        return _messages["RunAsyncResponse"](accepted=True, runner_execution_id="mine")

    def _ping(self, request, context):
        return _messages["PingResponse"](runner_type=self.fields["runner_type"],
                                         supported_modes=self.fields["supported_modes"])

    def next(self):
        """The next request it is sent, and the seconds until its gRPC deadline."""
        return self.received.get(timeout=WAIT)

    def complete(self, request, **fields):
        """Completes an async execution; default: success."""
        if not fields:
            done = success(request)
            fields = dict(stage_state=done.stage_state, check_updates=done.check_updates)
        return self.server.call("CompleteStageExecution", execution_id=request.execution_id, **fields)

    def close(self):
        self.grpc.stop(None).wait()


# ---- asserting ----

def refused(code, call, *arguments, **fields):
    """The call fails with this status; returns its text."""
    try:
        answer = call(*arguments, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, f"expected {code}, got {error.code()}: {error.details()}"
        return error.details()
    raise AssertionError(f"expected {code}, got an answer: {answer}")
