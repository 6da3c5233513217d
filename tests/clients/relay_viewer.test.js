// A browser's end of a terminal over the relay, written from the documented frames alone: a tag byte and a protobuf message in
// each binary WebSocket message. Started by tests/it with BOXD_NATS_URL, BOXD_NATS_TOKEN, BOXD_LINK (`<ws>.<id>`), BOXD_RELAY
// (ws://...) and BOXD_RELAY_TOKEN (of a viewer) in its environment. The relay is killed and started again when the file
// BOXD_RESTART appears, and BOXD_RESTARTED appears when it is back.

import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { connect } from "nats";
import protobuf from "protobufjs";
import WebSocket from "ws";

const here = path.dirname(fileURLToPath(import.meta.url));
const [workspace, agent] = process.env.BOXD_LINK.split(".");
let connection;
let types;

before(async () => {
  const root = await new protobuf.Root().load(path.join(here, "../../proto/boxd_control.proto"), { keepCase: true });
  const lookup = (name) => root.lookupType(`boxd.control.v1.${name}`);
  types = Object.fromEntries(
    ["ControlRequest", "ControlResponse", "StreamOpen", "StreamOpenAck", "StreamFrame", "StreamClose"].map((name) => [
      name,
      lookup(name),
    ]),
  );
  connection = await connect({ servers: process.env.BOXD_NATS_URL, token: process.env.BOXD_NATS_TOKEN });
});

after(() => connection.close());

async function ask(op) {
  const request = types.ControlRequest.fromObject({ request_id: `viewer-${Math.random()}`, ...op });
  const reply = await connection.request(
    `agent.${workspace}.${agent}.rpc`,
    types.ControlRequest.encode(request).finish(),
    { timeout: 20000 },
  );
  const response = types.ControlResponse.toObject(types.ControlResponse.decode(reply.data), { enums: String });
  assert.equal(response.error, undefined, JSON.stringify(response.error));
  return response;
}

const TAGS = ["", "StreamOpen", "StreamOpenAck", "StreamFrame", "StreamClose"];

/** One who looks and types; both counters live as long as the viewer and not as its socket. */
class Viewer {
  constructor(channel) {
    this.channel = channel;
    this.received = 0;
    this.sent = 0;
    this.text = "";
    this.gaps = 0;
  }

  async attach() {
    const { channel_id, workspace_id, agent_id, port } = this.channel;
    const query = new URLSearchParams({ ws: workspace_id, agent: agent_id, port: String(port), channel: channel_id });
    for (;;) {
      try {
        await this.open(`${process.env.BOXD_RELAY}?${query}`);
        return;
      } catch (error) {
        if (error.code !== "ECONNREFUSED") throw error;
        await pause(50);
      }
    }
  }

  open(url) {
    this.socket = new WebSocket(url);
    this.socket.binaryType = "nodebuffer";
    return new Promise((resolve, reject) => {
      this.socket.on("error", reject);
      this.socket.on("open", () =>
        this.say("StreamOpen", {
          channel: this.channel,
          token: process.env.BOXD_RELAY_TOKEN,
          role: "STREAM_ROLE_CLIENT",
          resume_from_seq: this.received,
        }),
      );
      this.socket.on("message", (bytes) => {
        const name = TAGS[bytes[0]];
        const message = types[name].toObject(types[name].decode(bytes.subarray(1)), {
          longs: Number,
          enums: String,
          defaults: true,
        });
        if (name === "StreamOpenAck") {
          if (!message.accepted) return reject(new Error(message.error.message));
          if (message.resume_from_seq > this.received) this.gaps += 1;
          return resolve();
        }
        if (name === "StreamFrame") this.take(message);
        if (name === "StreamClose") this.closed = message.reason;
      });
    });
  }

  take({ seq, data }) {
    if (seq < this.received) return;
    if (seq > this.received) this.gaps += 1;
    this.received = seq + 1;
    this.text += Buffer.from(data).toString();
  }

  say(name, fields) {
    const message = types[name].encode(types[name].fromObject(fields)).finish();
    this.socket.send(Buffer.concat([Buffer.from([TAGS.indexOf(name)]), message]));
  }

  type(text) {
    this.say("StreamFrame", {
      channel_id: this.channel.channel_id,
      seq: this.sent,
      data: Buffer.from(text),
      produced_at_ms: Date.now(),
    });
    this.sent += 1;
  }

  async until(text) {
    const end = Date.now() + 20000;
    while (!this.text.includes(text)) {
      assert.ok(Date.now() < end, `${JSON.stringify(text)} does not come behind ${JSON.stringify(this.text.slice(-500))}`);
      await pause(10);
    }
  }
}

test("a terminal is seen, typed into, resized and survives its relay", async () => {
  const line = "stty -echo; echo ready; while read line; do echo \"got $line at $(stty size)\"; done";
  const { pty_open } = await ask({ pty_open: { command: ["sh", "-c", line], cols: 80, rows: 24 } });
  const viewer = new Viewer(pty_open.channel);
  await viewer.attach();
  await viewer.until("ready");
  viewer.type("one\n");
  await viewer.until("got one at 24 80");
  await ask({ pty_resize: { pty_id: pty_open.pty_id, cols: 100, rows: 30 } });
  viewer.type("two\n");
  await viewer.until("got two at 30 100");

  const gone = new Promise((resolve) => viewer.socket.on("close", resolve));
  writeFileSync(process.env.BOXD_RESTART, "");
  await gone;
  await ask({ pty_write: { pty_id: pty_open.pty_id, data: Buffer.from("while away\n") } });
  while (!existsSync(process.env.BOXD_RESTARTED)) await pause(20);
  await viewer.attach();
  await viewer.until("got while away at 30 100");
  viewer.type("three\n");
  await viewer.until("got three at 30 100");
  assert.equal(viewer.gaps, 0);
  assert.equal(viewer.text.match(/got three/g).length, 1);

  const { pty_close } = await ask({ pty_close: { pty_id: pty_open.pty_id } });
  assert.equal(pty_close.exit_code, -1);
  while (viewer.closed === undefined) await pause(10);
  assert.equal(viewer.closed, "STREAM_CLOSE_REASON_PROCESS_EXIT");
  viewer.socket.close();
});
