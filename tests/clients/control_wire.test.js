// Drives a running daemon over a real broker, as a control plane would: the npm client `nats`, messages encoded by
// protobufjs from our .proto. Started by tests/it with BOXD_NATS_URL, BOXD_NATS_TOKEN, BOXD_LINK (`<ws>.<id>`),
// BOXD_INSTANCE and BOXD_WORKSPACE in its environment.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect, NatsError } from "nats";
import protobuf from "protobufjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const workspace = process.env.BOXD_WORKSPACE;
const plain = `agent.${process.env.BOXD_LINK}`;
const instance = `${plain}.connection.${process.env.BOXD_INSTANCE}`;
let connection;
let types;

before(async () => {
  const root = await new protobuf.Root().load(path.join(here, "../../proto/boxd_control.proto"), { keepCase: true });
  const lookup = (name) => root.lookupType(`boxd.control.v1.${name}`);
  types = { request: lookup("ControlRequest"), response: lookup("ControlResponse"), event: lookup("AgentEvent") };
  connection = await connect({ servers: process.env.BOXD_NATS_URL, token: process.env.BOXD_NATS_TOKEN });
});

after(() => connection.close());

function decode(type, bytes) {
  const value = type.toObject(type.decode(bytes), { longs: String, enums: String, defaults: true, oneofs: true });
  return withBuffers(value);
}

/** Every byte field as a Buffer, which compares and prints. */
function withBuffers(value) {
  if (value instanceof Uint8Array) return Buffer.from(value);
  if (Array.isArray(value)) return value.map(withBuffers);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withBuffers(inner)]));
}

/** Sends one request, checks the echo, answers the response. `fields` are those of ControlRequest beside the op. */
async function ask(op, fields = {}, subject = plain) {
  const message = { request_id: randomUUID(), ...fields, ...op };
  const bytes = types.request.encode(types.request.fromObject(message)).finish();
  const reply = await connection.request(`${subject}.rpc`, bytes, { timeout: 20000 });
  const response = decode(types.response, reply.data);
  assert.equal(response.request_id, message.request_id);
  return response;
}

/** The result of an op that must succeed. */
async function good(op, fields, subject) {
  const response = await ask(op, fields, subject);
  assert.equal(response.error, null, JSON.stringify(response.error));
  const name = Object.keys(op)[0];
  assert.equal(response.result, name);
  return response[name];
}

/** The error of an op that must be refused. */
async function bad(op, code, fields) {
  const response = await ask(op, fields);
  assert.equal(response.result, undefined, JSON.stringify(response));
  assert.equal(response.error.code, `ERROR_CODE_${code}`, JSON.stringify(response.error));
  assert.ok(response.error.message.length > 0);
  return response.error;
}

test("ping, on both subject families, with a full uint64", async () => {
  for (const subject of [plain, instance]) {
    const pong = await good({ ping: { nonce: "18446744073709551615" } }, {}, subject);
    assert.equal(pong.nonce, "18446744073709551615");
    assert.ok(Number(pong.agent_monotonic_ms) >= 0);
  }
});

test("exec: argv, shell, directory, environment, input, both outputs, the code", async () => {
  const argv = await good({ exec: { command: ["printf", "%s|", "a b", "$HOME"] } });
  assert.equal(argv.stdout.toString(), "a b|$HOME|");
  assert.equal(argv.exit_code, 0);
  const shell = await good({
    exec: {
      command: ['read line; echo "$line $X $PWD";', "echo oops >&2;", "exit 3"],
      shell: true,
      cwd: "/tmp",
      env: { X: "ü" },
      stdin: Buffer.from("hello\n"),
    },
  });
  assert.equal(shell.stdout.toString(), "hello ü /tmp\n");
  assert.equal(shell.stderr.toString(), "oops\n");
  assert.equal(shell.exit_code, 3);
  assert.equal(shell.timed_out, false);
  const bytes = Buffer.from(Array.from({ length: 70000 }, (_, index) => index % 256));
  assert.ok((await good({ exec: { command: ["cat"], stdin: bytes } })).stdout.equals(bytes));
});

test("exec: time limit and signal", async () => {
  const late = await good({ exec: { command: ["sh", "-c", "echo early; sleep 30"], timeout_ms: 200 } });
  assert.equal(late.timed_out, true);
  assert.equal(late.exit_code, -1);
  assert.equal(late.stdout.toString(), "early\n");
  const killed = await good({ exec: { command: ["kill $$"], shell: true } });
  assert.equal(killed.exit_code, -1);
  assert.equal(killed.timed_out, false);
});

test("exec: the same request id runs once", async () => {
  const request_id = randomUUID();
  const op = { exec: { command: ["sh", "-c", "echo x >> once; wc -l < once"] } };
  const first = await good(op, { request_id });
  const second = await good(op, { request_id });
  assert.equal(first.stdout.toString().trim(), "1");
  assert.deepEqual(second, first);
  assert.equal(await readFile(path.join(workspace, "once"), "utf8"), "x\n");
});

test("exec: failures to start are blamed on the right thing", async () => {
  assert.match((await bad({ exec: { command: ["no-such-program"] } }, "NOT_FOUND")).message, /no-such-program/);
  const cwd = await bad({ exec: { command: ["no-such-program"], cwd: "/no/such/directory" } }, "NOT_FOUND");
  assert.match(cwd.message, /\/no\/such\/directory/);
  const empty = await bad({ exec: { command: [] } }, "OS");
  assert.equal(empty.detail.errno, "22");
  await writeFile(path.join(workspace, "plain"), "", { mode: 0o644 });
  const denied = await bad({ exec: { command: ["./plain"] } }, "OS");
  assert.equal(denied.detail.errno, "13");
});

test("files: write, read, ranges, append, modes", async () => {
  const content = Buffer.from("0123456789");
  const written = await good({ fs_write: { path: "d/e/f.txt", content, create_parents: true, mode: 0o640 } });
  assert.equal(written.bytes_written, "10");
  const cases = [
    [{}, "0123456789"],
    [{ offset: 4 }, "456789"],
    [{ offset: 4, length: 3 }, "456"],
    [{ offset: 10 }, ""],
    [{ offset: 999, length: 5 }, ""],
    [{ length: 99 }, "0123456789"],
  ];
  for (const [range, expected] of cases) {
    const read = await good({ fs_read: { path: "d/e/f.txt", ...range } });
    assert.equal(read.content.toString(), expected, JSON.stringify(range));
    assert.equal(read.total_size, "10");
  }
  await good({ fs_write: { path: "d/e/f.txt", content: Buffer.from("+"), append: true } });
  assert.equal(await readFile(path.join(workspace, "d/e/f.txt"), "utf8"), "0123456789+");
  await good({ fs_write: { path: "d/e/f.txt", content: Buffer.alloc(0) } });
  const { entry } = await good({ fs_stat: { path: "d/e/f.txt" } });
  assert.equal(entry.size, "0");
  assert.equal(entry.mode & 0o777, 0o640, "a replaced file keeps its mode");
  await bad({ fs_write: { path: "no/parent/f", content } }, "NOT_FOUND");
  await bad({ fs_read: { path: "d/e/none" } }, "NOT_FOUND");
  assert.equal((await bad({ fs_read: { path: "d" } }, "OS")).detail.errno, "21");
});

test("files: list, stat, mkdir, move, remove", async () => {
  await mkdir(path.join(workspace, "tree/sub"), { recursive: true });
  await writeFile(path.join(workspace, "tree/sub/inner"), "abc");
  await writeFile(path.join(workspace, "tree/new\nline"), "");
  await symlink("sub", path.join(workspace, "tree/link"));
  const flat = (await good({ fs_list: { path: "tree" } })).entries;
  assert.deepEqual(
    flat.map(({ name, path: where, kind }) => [name, where, kind]).sort(),
    [
      ["link", "link", "FS_ENTRY_KIND_SYMLINK"],
      ["new\nline", "new\nline", "FS_ENTRY_KIND_FILE"],
      ["sub", "sub", "FS_ENTRY_KIND_DIRECTORY"],
    ].sort(),
  );
  const deep = (await good({ fs_list: { path: "tree", recursive: true } })).entries;
  const inner = deep.find(({ path: where }) => where === "sub/inner");
  assert.equal(inner.size, "3");
  assert.ok(Math.abs(Number(inner.modified_ms) - Date.now()) < 60000);
  assert.ok(!deep.some(({ path: where }) => where.startsWith("link/")), "links are not followed");

  assert.equal((await good({ fs_stat: { path: "tree/none" } })).exists, false);
  const stat = await good({ fs_stat: { path: "tree/sub" } });
  assert.equal(stat.exists, true);
  assert.equal(stat.entry.kind, "FS_ENTRY_KIND_DIRECTORY");

  await good({ fs_mkdir: { path: "tree/a/b", parents: true } });
  await good({ fs_mkdir: { path: "tree/a/b", parents: true } });
  await bad({ fs_mkdir: { path: "tree/x/y" } }, "NOT_FOUND");
  assert.equal((await bad({ fs_mkdir: { path: "tree/sub" } }, "OS")).detail.errno, "17");

  await writeFile(path.join(workspace, "tree/taken"), "old");
  assert.equal((await bad({ fs_move: { from: "tree/sub/inner", to: "tree/taken" } }, "OS")).detail.errno, "17");
  await good({ fs_move: { from: "tree/sub/inner", to: "tree/taken", overwrite: true } });
  assert.equal(await readFile(path.join(workspace, "tree/taken"), "utf8"), "abc");
  await bad({ fs_move: { from: "tree/none", to: "tree/x" } }, "NOT_FOUND");

  await good({ fs_remove: { path: "tree/link" } });
  assert.equal((await good({ fs_stat: { path: "tree/sub" } })).exists, true);
  assert.equal((await bad({ fs_remove: { path: "tree" } }, "OS")).detail.errno, "39");
  await good({ fs_remove: { path: "tree", recursive: true } });
  await bad({ fs_remove: { path: "tree" } }, "NOT_FOUND");
});

test("metrics are figures of a machine", async () => {
  const sample = await good({ metrics: {} });
  assert.ok(Number(sample.mem_total_bytes) > Number(sample.mem_used_bytes) && Number(sample.mem_used_bytes) > 0);
  assert.ok(Number(sample.disk_total_bytes) >= Number(sample.disk_used_bytes));
  assert.ok(sample.cpu_percent >= 0 && sample.cpu_percent <= 100);
  assert.ok(Math.abs(Number(sample.sampled_at_ms) - Date.now()) < 60000);
});

test("extensions: every operation by its stable name, in the JSON of the HTTP door", async () => {
  const call = async (op, value) => {
    const { op: name, payload } = await good({ ext: { op, payload: Buffer.from(JSON.stringify(value)) } });
    assert.equal(name, op);
    return JSON.parse(payload.toString());
  };
  const run = await call("process.run", { command: "echo", args: ["over", "ext"] });
  assert.equal(run.stdout, "over ext\n");
  assert.equal((await call("process.config.get", {})).maxConcurrentProcesses, 64);
  assert.equal((await call("process.config.set", { maxOutputBytes: 1048576 })).maxOutputBytes, 1048576);
  assert.equal((await call("fs.mkdir", { path: "by-ext" })).path, path.join(workspace, "by-ext"));
  const { exists, entry } = await call("fs.stat", { path: "by-ext" });
  assert.deepEqual([exists, entry.entryType], [true, "directory"]);
  assert.deepEqual((await call("fs.list", { path: "by-ext" })).entries, []);
  await call("fs.move", { from: "by-ext", to: "by-ext-2" });
  await call("fs.remove", { path: "by-ext-2" });
  assert.ok((await call("host.metrics", {})).memTotalBytes > 0);
  const { capabilities } = await call("host.capabilities", {});
  assert.equal(capabilities.find(({ name }) => name === "process.run").available, true);
  const unknown = await bad({ ext: { op: "no.such.op", payload: Buffer.from("{}") } }, "UNSUPPORTED");
  assert.match(JSON.stringify(unknown), /process\.run/);
  const missing = await bad({ ext: { op: "fs.remove", payload: Buffer.from('{"path":"none"}') } }, "NOT_FOUND");
  assert.equal(missing.detail.code, "not_found");
  assert.ok(missing.detail.id);
  await bad({ ext: { op: "fs.stat", payload: Buffer.from("{") } }, "PROTOCOL");
});

test("git answers as the program does, and its status in parts", async () => {
  const git = (op, args = []) => good({ git: { op: `GIT_OP_${op}`, cwd: "repository", args } });
  await good({ fs_mkdir: { path: "repository" } });
  assert.equal((await git("RAW", ["init", "--quiet", "--initial-branch=main"])).exit_code, 0);
  await writeFile(path.join(workspace, "repository/new"), "x");
  assert.equal((await git("ADD", ["new"])).exit_code, 0);
  const { status } = await git("STATUS");
  assert.equal(status.branch, "main");
  assert.equal(status.clean, false);
  assert.deepEqual(
    status.files.map(({ path, code, staged }) => ({ path, code, staged })),
    [{ path: "new", code: "A.", staged: true }],
  );
  const failed = await git("LOG");
  assert.equal(failed.exit_code, 128);
  assert.ok(failed.stderr.length > 0);
  await bad({ git: {} }, "OS");
});

test("what does not exist yet is UNSUPPORTED, what makes no sense is PROTOCOL", async () => {
  for (const op of ["pty_open", "desktop_ensure", "desktop_screenshot", "agent_update_apply"]) {
    await bad({ [op]: {} }, "UNSUPPORTED");
  }
  for (const op of ["hello", "resume", "update_may_proceed", "op_start"]) {
    await bad({ [op]: {} }, "PROTOCOL");
  }
  await bad({}, "PROTOCOL");
  const reply = await connection.request(`${plain}.rpc`, Buffer.from([0xff, 0xff, 0xff]), { timeout: 5000 });
  const response = decode(types.response, reply.data);
  assert.equal(response.request_id, "");
  assert.equal(response.error.code, "ERROR_CODE_PROTOCOL");
});

test("a limit is kept, one that makes no sense is invalid, one on what runs nothing is refused", async () => {
  const op = { exec: { command: ["true"] } };
  const zero = await bad(op, "OS", { resource_policy: { memory_max_bytes: 0 } });
  assert.equal(zero.detail.errno, "22");
  const above = await bad(op, "OS", { resource_policy: { memory_max_bytes: 5, memory_high_bytes: 6 } });
  assert.equal(above.detail.errno, "22");
  await bad({ fs_stat: { path: "." } }, "UNSUPPORTED", { resource_policy: { memory_max_bytes: 1 << 30 } });
});

test("a reply that the broker would refuse is an error that names the sizes", async () => {
  const error = await bad({ exec: { command: ["head", "-c", "3000000", "/dev/zero"] } }, "PAYLOAD_TOO_LARGE");
  assert.equal(error.retryable, false);
  assert.ok(Number(error.detail.encoded_bytes) >= 3000000, JSON.stringify(error.detail));
  assert.equal(Number(error.detail.max_payload), connection.info.max_payload);
  assert.equal(error.detail.op, "exec");
});

test("heartbeats come by themselves, numbered, with figures", async () => {
  const subscription = connection.subscribe(`${plain}.events`, { max: 2 });
  const beats = [];
  for await (const message of subscription) beats.push(decode(types.event, message.data));
  assert.equal(beats.length, 2);
  const [first, second] = beats.map((event) => event.heartbeat);
  assert.equal(Number(second.seq), Number(first.seq) + 1);
  assert.ok(Number(second.metrics.mem_total_bytes) > 0);
  assert.ok(Number(second.capacity.fd_headroom) > 0 && Number(second.capacity.pid_headroom) > 0);
  assert.equal(second.draining, false);
});

test("nobody answers for another agent", async () => {
  const subject = `agent.${randomUUID()}.${randomUUID()}.rpc`;
  await assert.rejects(connection.request(subject, Buffer.alloc(0), { timeout: 2000 }), NatsError);
});
