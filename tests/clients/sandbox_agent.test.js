// Drives a running daemon with the published SDK: health, processes, their logs and terminals, and every file method, bad
// input included. Started by tests/it with BOXD_URL, BOXD_TOKEN and BOXD_WORKSPACE in its environment.

import assert from "node:assert/strict";
import { mkdtemp, readFile, stat, symlink, writeFile, mkdir, readdir } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, before, beforeEach } from "node:test";
import { SandboxAgent, SandboxAgentError } from "sandbox-agent";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket;
const baseUrl = process.env.BOXD_URL;
const token = process.env.BOXD_TOKEN;
const workspace = process.env.BOXD_WORKSPACE;
let sdk;
let counter = 0;
let directory;

before(async () => {
  assert.ok(baseUrl && token && workspace, "BOXD_URL, BOXD_TOKEN and BOXD_WORKSPACE are set");
  sdk = await SandboxAgent.connect({ baseUrl, token, waitForHealth: { timeoutMs: 5000 } });
});

beforeEach(() => {
  directory = `case-${(counter += 1)}`;
});

/** Asserts that `work` is refused with this status and stable code, and that every field of a problem is there. */
async function refused(work, status, code) {
  let error;
  try {
    const value = await work();
    assert.fail(`expected ${status} ${code}, got an answer: ${JSON.stringify(value)}`);
  } catch (caught) {
    if (!(caught instanceof SandboxAgentError)) throw caught;
    error = caught;
  }
  assert.equal(error.status, status, JSON.stringify(error.problem));
  assert.match(error.response.headers.get("content-type"), /^application\/problem\+json/);
  const { problem } = error;
  assert.equal(problem.status, status);
  assert.equal(problem.code, code, JSON.stringify(problem));
  assert.equal(problem.type, `urn:sandbox-agent:error:${code}`);
  for (const field of ["title", "detail", "requestId"]) {
    assert.ok(typeof problem[field] === "string" && problem[field] !== "", `${field}: ${JSON.stringify(problem)}`);
  }
  return problem;
}

test("health", async () => {
  const health = await sdk.getHealth();
  assert.equal(health.status, "ok");
  assert.equal(typeof health.version, "string");
  assert.equal(typeof health.uptimeMs, "number");
  const anonymous = await (await fetch(`${baseUrl}/v1/health`)).json();
  assert.deepEqual(anonymous, { status: "ok" });
});

test("a wrong token is told from no token by nobody: both are 401", async () => {
  for (const wrong of ["wrong", undefined]) {
    const other = await SandboxAgent.connect({ baseUrl, token: wrong, waitForHealth: false });
    await refused(() => other.listFsEntries(), 401, "token_invalid");
  }
});

test("runProcess answers code, output and time", async () => {
  const answer = await sdk.runProcess({ command: "sh", args: ["-c", "printf out; printf err >&2; exit 7"] });
  assert.equal(answer.exitCode, 7);
  assert.equal(answer.stdout, "out");
  assert.equal(answer.stderr, "err");
  assert.equal(answer.timedOut, false);
  assert.equal(answer.stdoutTruncated, false);
  assert.equal(answer.stderrTruncated, false);
  assert.ok(Number.isInteger(answer.durationMs) && answer.durationMs >= 0 && answer.durationMs < 5000);
});

test("runProcess passes arguments, directory and environment as they are", async () => {
  await sdk.mkdirFs({ path: `${directory}/here` });
  const answer = await sdk.runProcess({
    command: "sh",
    args: ["-c", 'pwd; printf "%s|%s|%s" "$1" "$GREETING" "${BOXD_TOKEN-unset}"', "sh", "a 'b' $HOME \n*"],
    cwd: `${directory}/here`,
    env: { GREETING: "grüße" },
  });
  assert.equal(answer.stdout, `${workspace}/${directory}/here\na 'b' $HOME \n*|grüße|unset`);
});

test("runProcess that runs out of time keeps what was written", async () => {
  const begin = Date.now();
  const answer = await sdk.runProcess({ command: "sh", args: ["-c", "echo early; sleep 30"], timeoutMs: 200 });
  assert.equal(answer.timedOut, true);
  assert.equal(answer.exitCode ?? null, null);
  assert.equal(answer.stdout, "early\n");
  assert.ok(Date.now() - begin < 5000);
});

test("runProcess says what it cut", async () => {
  const answer = await sdk.runProcess({
    command: "sh",
    args: ["-c", "head -c 5000 /dev/zero | tr '\\0' x; printf END; printf small >&2"],
    maxOutputBytes: 100,
  });
  assert.equal(answer.exitCode, 0);
  assert.equal(answer.stdoutTruncated, true);
  assert.equal(answer.stderrTruncated, false);
  assert.equal(answer.stderr, "small");
  assert.ok(answer.stdout.startsWith("xxx") && answer.stdout.includes("END"), answer.stdout);
});

test("runProcess blames the right thing", async () => {
  const program = await refused(() => sdk.runProcess({ command: "no-such-program" }), 404, "not_found");
  assert.match(program.detail, /program.*no-such-program/);
  const cwd = await refused(() => sdk.runProcess({ command: "true", cwd: "no/such/cwd" }), 404, "not_found");
  assert.match(cwd.detail, /no\/such\/cwd/);
  await writeFile(path.join(workspace, `${directory}-plain`), "not a program", { mode: 0o644 });
  await refused(() => sdk.runProcess({ command: `./${directory}-plain` }), 403, "permission_denied");
});

test("runProcess refuses what makes no sense, naming the field", async () => {
  for (const [request, field] of [
    [{ command: "" }, /command/],
    [{ args: ["x"] }, /command/],
    [{ command: 5 }, /command/],
    [{ command: "true", args: "x" }, /args/],
    [{ command: "true", timeoutMs: -1 }, /timeoutMs/],
    [{ command: "true", maxOutputBytes: "1" }, /maxOutputBytes/],
    [{ command: "true\0" }, /command|NUL/],
    [{ command: "true", env: { "A=B": "x" } }, /env/],
    [{ command: "true", env: { A: "x\0y" } }, /env/],
  ]) {
    const problem = await refused(() => sdk.runProcess(request), 400, "invalid_request");
    assert.match(problem.detail, field, JSON.stringify(request));
  }
  // Fields that the contract does not know are ignored, as it has always been.
  assert.equal((await sdk.runProcess({ command: "true", someday: 1 })).exitCode, 0);
});

test("process limits are read, set, checked and clamped", async () => {
  const initial = await sdk.getProcessConfig();
  assert.deepEqual(initial, {
    maxConcurrentProcesses: 64,
    defaultRunTimeoutMs: 30000,
    maxRunTimeoutMs: 300000,
    maxOutputBytes: 1048576,
    maxLogBytesPerProcess: 10485760,
    maxInputBytesPerRequest: 65536,
  });
  try {
    const changed = await sdk.setProcessConfig({ ...initial, maxOutputBytes: 10, maxRunTimeoutMs: 20000 });
    assert.equal(changed.maxOutputBytes, 10);
    assert.equal(changed.defaultRunTimeoutMs, 20000, "lowered to the longest one allowed");
    assert.deepEqual(await sdk.getProcessConfig(), changed);
    const answer = await sdk.runProcess({ command: "echo", args: ["0123456789abcdef"] });
    assert.equal(answer.stdoutTruncated, true);
    assert.equal((await sdk.setProcessConfig({ maxOutputBytes: 11 })).maxRunTimeoutMs, 20000, "any subset");
    for (const bad of [{ maxOutputBytes: 0 }, { maxConcurrentProcesses: -1 }, { maxRunTimeoutMs: "9" }]) {
      const problem = await refused(() => sdk.setProcessConfig(bad), 400, "invalid_request");
      assert.match(problem.detail, new RegExp(Object.keys(bad)[0]));
    }
    assert.equal((await sdk.getProcessConfig()).maxOutputBytes, 11, "a refused change changes nothing");
  } finally {
    await sdk.setProcessConfig(initial);
  }
  assert.deepEqual(await sdk.getProcessConfig(), initial);
});

test("the limit of concurrent processes is a conflict", async () => {
  const initial = await sdk.getProcessConfig();
  await sdk.setProcessConfig({ maxConcurrentProcesses: 1 });
  const fifo = path.join(workspace, `${directory}-fifo`);
  execFileSync("mkfifo", [fifo]);
  try {
    const running = sdk.runProcess({ command: "sh", args: ["-c", `read line < '${fifo}'; echo "$line"`] });
    // The process has started when it opens the fifo: opening the other end waits for that.
    const other = await import("node:fs/promises").then((fs) => fs.open(fifo, "w"));
    await refused(() => sdk.runProcess({ command: "true" }), 409, "conflict");
    await other.write("go\n");
    await other.close();
    assert.equal((await running).stdout, "go\n");
    assert.equal((await sdk.runProcess({ command: "true" })).exitCode, 0);
  } finally {
    await sdk.setProcessConfig(initial);
  }
});

test("files are written and read back, byte for byte", async () => {
  const bytes = new Uint8Array(3 << 20).map((_, index) => (index * 7919) >> 3);
  const written = await sdk.writeFsFile({ path: `${directory}/deep/er/data.bin` }, bytes);
  assert.equal(written.path, path.join(workspace, directory, "deep/er/data.bin"));
  assert.equal(written.bytesWritten, bytes.length);
  const read = await sdk.readFsFile({ path: `${directory}/deep/er/data.bin` });
  assert.ok(Buffer.from(read).equals(Buffer.from(bytes)));
  const again = await sdk.writeFsFile({ path: `${directory}/deep/er/data.bin` }, "");
  assert.equal(again.bytesWritten, 0);
  assert.equal((await sdk.readFsFile({ path: `${directory}/deep/er/data.bin` })).length, 0);
  assert.deepEqual(await readdir(path.join(workspace, directory, "deep/er")), ["data.bin"], "no draft is left");
});

test("a streamed body is written too", async () => {
  const parts = ["one", "two", "three"];
  const body = new ReadableStream({
    pull(controller) {
      const part = parts.shift();
      if (part === undefined) controller.close();
      else controller.enqueue(new TextEncoder().encode(part));
    },
  });
  const streaming = await SandboxAgent.connect({
    baseUrl,
    token,
    waitForHealth: false,
    fetch: (url, init) => fetch(url, init?.body ? { ...init, duplex: "half" } : init),
  });
  await streaming.writeFsFile({ path: `${directory}.txt` }, body);
  assert.equal(await readFile(path.join(workspace, `${directory}.txt`), "utf8"), "onetwothree");
});

test("entries are listed by name with their kinds", async () => {
  const root = path.join(workspace, directory);
  await mkdir(path.join(root, "sub"), { recursive: true });
  await writeFile(path.join(root, "b.txt"), "12345");
  await writeFile(path.join(root, "ü name\nwith newline"), "");
  await symlink("b.txt", path.join(root, "link"));
  const entries = await sdk.listFsEntries({ path: directory });
  const names = entries.map((entry) => entry.name);
  assert.deepEqual([...names].sort(), ["b.txt", "link", "sub", "ü name\nwith newline"].sort());
  assert.deepEqual(names, [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
  const file = entries.find((entry) => entry.name === "b.txt");
  assert.equal(file.entryType, "file");
  assert.equal(file.size, 5);
  assert.equal(file.path, path.join(root, "b.txt"));
  assert.ok(Math.abs(Date.parse(file.modified) - Date.now()) < 60000, file.modified);
  assert.equal(entries.find((entry) => entry.name === "sub").entryType, "directory");
  assert.ok((await sdk.listFsEntries()).some((entry) => entry.name === directory), "no path is the workspace");
});

test("stat, mkdir, move and delete", async () => {
  assert.deepEqual(await sdk.mkdirFs({ path: `${directory}/a/b` }), { path: path.join(workspace, directory, "a/b") });
  await sdk.mkdirFs({ path: `${directory}/a/b` });
  await sdk.writeFsFile({ path: `${directory}/a/file` }, "12");
  const file = await sdk.statFs({ path: `${directory}/a/file` });
  assert.equal(file.entryType, "file");
  assert.equal(file.size, 2);
  assert.equal(file.path, path.join(workspace, directory, "a/file"));
  assert.equal((await sdk.statFs({ path: `${directory}/a` })).entryType, "directory");

  await sdk.writeFsFile({ path: `${directory}/taken` }, "old");
  await refused(() => sdk.moveFs({ from: `${directory}/a/file`, to: `${directory}/taken` }), 409, "already_exists");
  assert.equal(Buffer.from(await sdk.readFsFile({ path: `${directory}/taken` })).toString(), "old");
  const moved = await sdk.moveFs({ from: `${directory}/a/file`, to: `${directory}/taken`, overwrite: true });
  assert.deepEqual(moved, {
    from: path.join(workspace, directory, "a/file"),
    to: path.join(workspace, directory, "taken"),
  });
  assert.equal(Buffer.from(await sdk.readFsFile({ path: `${directory}/taken` })).toString(), "12");

  await refused(() => sdk.deleteFsEntry({ path: `${directory}/a` }), 409, "conflict");
  const removed = await sdk.deleteFsEntry({ path: `${directory}/a`, recursive: true });
  assert.deepEqual(removed, { path: path.join(workspace, directory, "a") });
  await assert.rejects(stat(path.join(workspace, directory, "a")));
});

test("what is not there is 404, what is of another kind is said", async () => {
  const missing = { path: `${directory}/nothing` };
  await refused(() => sdk.readFsFile(missing), 404, "not_found");
  await refused(() => sdk.statFs(missing), 404, "not_found");
  await refused(() => sdk.listFsEntries(missing), 404, "not_found");
  await refused(() => sdk.deleteFsEntry(missing), 404, "not_found");
  await refused(() => sdk.moveFs({ from: missing.path, to: "x" }), 404, "not_found");
  await sdk.writeFsFile({ path: `${directory}-file` }, "x");
  await refused(() => sdk.readFsFile({ path: "." }), 400, "wrong_kind");
  await refused(() => sdk.listFsEntries({ path: `${directory}-file` }), 400, "wrong_kind");
});

test("bad input to the file methods is 400 and names the field", async () => {
  const cases = [
    [() => sdk.readFsFile({}), /path/],
    [() => sdk.statFs({}), /path/],
    [() => sdk.mkdirFs({}), /path/],
    [() => sdk.deleteFsEntry({}), /path/],
    [() => sdk.deleteFsEntry({ path: "x", recursive: "perhaps" }), /recursive/],
    [() => sdk.moveFs({ from: "x" }), /to/],
    [() => sdk.moveFs({ from: 1, to: "x" }), /from/],
    [() => sdk.moveFs({ from: "x", to: "y", overwrite: "yes" }), /overwrite/],
    [() => sdk.readFsFile({ path: "a\0b" }), /NUL|path/],
  ];
  for (const [work, field] of cases) {
    const problem = await refused(work, 400, "invalid_request");
    assert.match(problem.detail, field);
  }
});

/** A tar or tar.gz of the given files, made by the machine's own tar. */
async function archive(files, flags = "-cf") {
  const root = await mkdtemp(path.join(tmpdir(), "boxd-archive-"));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(root, name)), { recursive: true });
    await writeFile(path.join(root, name), content);
  }
  return execFileSync("tar", ["-C", root, flags, "-", "."], { maxBuffer: 64 << 20 });
}

test("archives are unpacked, plain and compressed", async () => {
  for (const flags of ["-cf", "-czf"]) {
    const target = `${directory}/${flags.slice(1)}`;
    const body = await archive({ "one.txt": "1", "two/three.txt": "33" }, flags);
    const answer = await sdk.uploadFsBatch(body, { path: target });
    assert.equal(answer.truncated, false);
    const root = path.join(workspace, target);
    for (const name of ["one.txt", "two/three.txt"]) {
      assert.ok(answer.paths.includes(path.join(root, name)), JSON.stringify(answer.paths));
    }
    assert.equal(await readFile(path.join(root, "two/three.txt"), "utf8"), "33");
  }
});

test("an archive never writes outside of its destination", async () => {
  const outside = await mkdtemp(path.join(tmpdir(), "boxd-outside-"));
  const climbing = execFileSync("tar", ["-C", outside, "--absolute-names", "--transform", "s,.*,../climbed,", "-cf", "-", "/etc/hostname"]);
  await refused(() => sdk.uploadFsBatch(climbing, { path: `${directory}/in` }), 400, "invalid_request");
  await assert.rejects(stat(path.join(workspace, directory, "climbed")));

  const staging = await mkdtemp(path.join(tmpdir(), "boxd-link-"));
  await symlink(outside, path.join(staging, "door"));
  let body = execFileSync("tar", ["-C", staging, "-cf", path.join(staging, "a.tar"), "door"]);
  execFileSync("rm", [path.join(staging, "door")]);
  await mkdir(path.join(staging, "door"));
  await writeFile(path.join(staging, "door/through"), "x");
  execFileSync("tar", ["-C", staging, "-rf", path.join(staging, "a.tar"), "door/through"]);
  body = await readFile(path.join(staging, "a.tar"));
  try {
    await sdk.uploadFsBatch(body, { path: `${directory}/linked` });
  } catch (error) {
    assert.ok(error instanceof SandboxAgentError && error.status === 400, String(error));
  }
  assert.deepEqual(await readdir(outside), []);
});

test("what is no archive is refused", async () => {
  await refused(() => sdk.uploadFsBatch("this is not a tar file at all".repeat(100), { path: directory }), 400, "invalid_request");
});

/** Waits for the end of a process. */
async function ended(id) {
  const answer = await fetch(`${baseUrl}/v1/processes/${id}/wait`, { headers: { authorization: `Bearer ${token}` } });
  const info = await answer.json();
  assert.equal(info.status, "exited", JSON.stringify(info));
  return info;
}

const decoded = (entries) => Buffer.concat(entries.map((entry) => Buffer.from(entry.data, "base64"))).toString();

test("createProcess, getProcess, listProcesses, deleteProcess", async () => {
  const made = await sdk.createProcess({
    command: "sh",
    args: ["-c", "echo out; echo err >&2; echo $A; exit 3"],
    cwd: "/",
    env: { A: "b" },
  });
  assert.match(made.id, /^proc_\d+$/);
  for (const [field, value] of Object.entries({ command: "sh", cwd: "/", tty: false, interactive: false, owner: "user" })) {
    assert.equal(made[field], value, field);
  }
  assert.deepEqual(made.args, ["-c", "echo out; echo err >&2; echo $A; exit 3"]);
  assert.ok(["running", "exited"].includes(made.status) && Number.isInteger(made.createdAtMs), JSON.stringify(made));
  await ended(made.id);
  const info = await sdk.getProcess(made.id);
  assert.equal(info.status, "exited");
  assert.equal(info.exitCode, 3);
  assert.equal(info.pid ?? null, null);
  assert.ok(info.exitedAtMs >= info.createdAtMs);
  for (const owner of ["user", undefined]) {
    const { processes } = await sdk.listProcesses(owner ? { owner } : undefined);
    assert.ok(processes.some((process) => process.id === made.id));
  }
  assert.deepEqual((await sdk.listProcesses({ owner: "desktop" })).processes, []);
  await sdk.deleteProcess(made.id);
  for (const gone of [() => sdk.getProcess(made.id), () => sdk.deleteProcess(made.id), () => sdk.getProcessLogs(made.id)]) {
    await refused(gone, 404, "not_found");
  }
});

test("what createProcess cannot start is blamed right", async () => {
  await refused(() => sdk.createProcess({ command: "no-such-program" }), 404, "not_found");
  await refused(() => sdk.createProcess({ command: "true", cwd: "no/such" }), 404, "not_found");
  await refused(() => sdk.createProcess({ command: "" }), 400, "invalid_request");
  await refused(() => sdk.createProcess({ command: "true", args: 5 }), 400, "invalid_request");
  await refused(() => sdk.listProcesses({ owner: "nobody" }), 400, "invalid_request");
});

test("sendProcessInput in every encoding, and after the end", async () => {
  const made = await sdk.createProcess({ command: "sh", args: ["-c", "head -c 12"], interactive: true });
  assert.equal((await sdk.sendProcessInput(made.id, { data: Buffer.from("\0\xff..", "latin1").toString("base64") })).bytesWritten, 4);
  assert.equal((await sdk.sendProcessInput(made.id, { data: "utf8", encoding: "utf8" })).bytesWritten, 4);
  await refused(() => sdk.sendProcessInput(made.id, { data: "*" }), 400, "invalid_request");
  await refused(() => sdk.sendProcessInput(made.id, { data: "x", encoding: "latin1" }), 400, "invalid_request");
  await refused(() => sdk.sendProcessInput(made.id, { data: "x".repeat(70_000), encoding: "text" }), 413, "too_large");
  assert.equal((await sdk.sendProcessInput(made.id, { data: "text", encoding: "text" })).bytesWritten, 4);
  await ended(made.id);
  const { entries } = await sdk.getProcessLogs(made.id);
  assert.equal(Buffer.concat(entries.map((entry) => Buffer.from(entry.data, "base64"))).toString("latin1"), "\0\xff..utf8text");
  await refused(() => sdk.sendProcessInput(made.id, { data: "" }), 409, "conflict");
});

test("stopProcess and killProcess end a process and say how", async () => {
  for (const [end, signal] of [
    [(id) => sdk.stopProcess(id, { waitMs: 20_000 }), "SIGTERM"],
    [(id) => sdk.killProcess(id, { waitMs: 20_000 }), "SIGKILL"],
  ]) {
    const made = await sdk.createProcess({ command: "sleep", args: ["1000"] });
    assert.equal(made.status, "running");
    await refused(() => sdk.deleteProcess(made.id), 409, "conflict");
    const info = await end(made.id);
    assert.equal(info.id, made.id);
    assert.equal(info.status, "exited");
    assert.equal(info.exitCode ?? null, null);
    assert.equal(info.signal, signal);
  }
  await refused(() => sdk.stopProcess("proc_999999"), 404, "not_found");
  await refused(() => sdk.killProcess("nonsense"), 404, "not_found");
  await refused(() => sdk.stopProcess("proc_1", { waitMs: -1 }), 400, "invalid_request");
});

test("getProcessLogs by stream, tail and since", async () => {
  const made = await sdk.createProcess({
    command: "sh",
    args: ["-c", "for i in 1 2 3 4; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; done"],
  });
  await ended(made.id);
  const all = await sdk.getProcessLogs(made.id);
  assert.equal(all.processId, made.id);
  assert.equal(all.stream, "combined");
  for (const entry of all.entries) {
    assert.ok(Number.isInteger(entry.sequence) && entry.sequence >= 1, JSON.stringify(entry));
    assert.ok(Number.isInteger(entry.timestampMs));
    assert.equal(entry.encoding, "base64");
    assert.ok(["stdout", "stderr"].includes(entry.stream));
  }
  const sequences = all.entries.map((entry) => entry.sequence);
  assert.deepEqual(sequences, [...sequences].sort((a, b) => a - b));
  assert.equal(sequences[0], 1);
  for (const [stream, name] of [["stdout", "out"], ["stderr", "err"]]) {
    const one = await sdk.getProcessLogs(made.id, { stream });
    assert.equal(one.stream, stream);
    assert.equal(decoded(one.entries), [1, 2, 3, 4].map((i) => `${name} ${i}\n`).join(""));
    const last = await sdk.getProcessLogs(made.id, { stream, tail: 1 });
    assert.deepEqual(last.entries, one.entries.slice(-1));
  }
  assert.deepEqual((await sdk.getProcessLogs(made.id, { stream: "pty" })).entries, []);
  const since = await sdk.getProcessLogs(made.id, { since: sequences[1] });
  assert.deepEqual(since.entries, all.entries.slice(2));
  await refused(() => sdk.getProcessLogs(made.id, { tail: -1 }), 400, "invalid_request");
  await refused(() => sdk.getProcessLogs(made.id, { stream: "stdin" }), 400, "invalid_request");
  await refused(() => sdk.getProcessLogs(made.id, { since: 1_000_000 }), 400, "invalid_request");
});

test("followProcessLogs tells everything and then closes, also of a process that has ended", async () => {
  const made = await sdk.createProcess({ command: "sh", args: ["-c", "echo first; read line; echo $line"], interactive: true });
  const live = [];
  let heard;
  const first = new Promise((resolve) => (heard = resolve));
  const subscription = await sdk.followProcessLogs(made.id, (entry) => {
    live.push(entry);
    heard();
  });
  await first;
  await sdk.sendProcessInput(made.id, { data: "second\n", encoding: "utf8" });
  await subscription.closed;
  assert.equal(decoded(live), "first\nsecond\n");
  const late = [];
  await (await sdk.followProcessLogs(made.id, (entry) => late.push(entry), { since: live[0].sequence })).closed;
  assert.deepEqual(late, live.slice(1));
  await refused(() => sdk.followProcessLogs("proc_999999", () => {}), 404, "not_found");
});

test("followProcessLogs is closed by the client", async () => {
  const made = await sdk.createProcess({ command: "sleep", args: ["1000"] });
  const subscription = await sdk.followProcessLogs(made.id, () => {});
  subscription.close();
  await subscription.closed;
  assert.equal((await sdk.killProcess(made.id, { waitMs: 20_000 })).status, "exited");
});

/** Opens a terminal session and collects what comes. */
function session(id, options) {
  const opened = sdk.connectProcessTerminal(id, options);
  const seen = { opened, output: "", errors: [] };
  seen.ready = new Promise((resolve) => opened.onReady(resolve));
  seen.exit = new Promise((resolve) => opened.onExit(resolve));
  opened.onError((error) => seen.errors.push(error));
  let wake = () => {};
  opened.onData((data) => {
    seen.output += Buffer.from(data).toString("latin1");
    wake();
  });
  seen.until = async (text) => {
    while (!seen.output.includes(text)) await new Promise((resolve) => (wake = resolve));
  };
  return seen;
}

test("connectProcessTerminal passes bytes both ways, resizes, and tells the exit", async () => {
  const made = await sdk.createProcess({
    command: "sh",
    args: ["-c", "stty -echo; echo ready; read a; stty size; read b; echo got $b; exit 7"],
    tty: true,
    interactive: true,
  });
  assert.equal(made.tty, true);
  const one = session(made.id);
  assert.equal((await one.ready).processId, made.id);
  await one.until("ready\r\n");
  one.opened.resize({ cols: 101, rows: 33 });
  one.opened.sendInput("\n");
  await one.until("33 101\r\n");
  one.opened.sendInput(new TextEncoder().encode("bytes\n"));
  assert.equal((await one.exit).exitCode, 7);
  await one.opened.closed;
  assert.ok(one.output.endsWith("got bytes\r\n"), one.output);
  assert.deepEqual(one.errors, []);
  const { entries } = await sdk.getProcessLogs(made.id, { stream: "pty" });
  assert.equal(Buffer.concat(entries.map((entry) => Buffer.from(entry.data, "base64"))).toString("latin1"), one.output);
});

test("resizeProcessTerminal, and what it refuses", async () => {
  const made = await sdk.createProcess({ command: "cat", tty: true });
  assert.deepEqual(await sdk.resizeProcessTerminal(made.id, { cols: 90, rows: 20 }), { cols: 90, rows: 20 });
  await refused(() => sdk.resizeProcessTerminal(made.id, { cols: 0, rows: 20 }), 400, "invalid_request");
  await refused(() => sdk.resizeProcessTerminal("proc_999999", { cols: 90, rows: 20 }), 404, "not_found");
  const pipes = await sdk.createProcess({ command: "cat", interactive: true });
  await refused(() => sdk.resizeProcessTerminal(pipes.id, { cols: 90, rows: 20 }), 409, "conflict");
  for (const { id } of [made, pipes]) await sdk.killProcess(id, { waitMs: 20_000 });
});

test("a terminal session that is closed leaves the process, and buildProcessTerminalWebSocketUrl comes back", async () => {
  const made = await sdk.createProcess({ command: "sh", args: ["-c", "stty -echo; echo ready; exec cat"], tty: true });
  const one = session(made.id);
  await one.until("ready");
  one.opened.close();
  await one.opened.closed;
  assert.equal((await sdk.getProcess(made.id)).status, "running");
  const socket = new WebSocket(sdk.buildProcessTerminalWebSocketUrl(made.id));
  const first = await new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(data);
    socket.onerror = reject;
  });
  assert.equal(JSON.parse(first).type, "ready");
  socket.close();
  const raw = sdk.connectProcessTerminalWebSocket(made.id);
  await new Promise((resolve, reject) => Object.assign(raw, { onopen: resolve, onerror: reject }));
  raw.close();
  await sdk.killProcess(made.id, { waitMs: 20_000 });
});
