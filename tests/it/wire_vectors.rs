//! The control wire against `tests/vectors/control-wire.json`: our codec and an independent one (reflection over the
//! descriptors) must both agree with every case byte for byte.

use std::collections::BTreeSet;

use boxd::wire::proto;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value;

const PACKAGE: &str = "boxd.control.v1";

/// Messages of the descriptor that the vectors do not list by themselves: the empty placeholder of operations that
/// are never served.
const WITHOUT_VECTOR: &[&str] = &["ReservedOp"];

struct Case {
    message: String,
    variant: String,
    json: Value,
    bytes: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../vectors/control-wire.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    vectors
        .iter()
        .map(|vector| Case {
            message: vector["message"].as_str().unwrap().to_owned(),
            variant: vector["variant"].as_str().unwrap_or("-").to_owned(),
            json: vector["json"].clone(),
            bytes: bytes_of(vector["hex"].as_str().unwrap()),
        })
        .collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTORS).unwrap()
}

/// Decodes with the generated type of that name and encodes again.
macro_rules! round_trip {
    ($name:expr, $bytes:expr, [$($message:ident),* $(,)?]) => {
        match $name {
            $(stringify!($message) => proto::$message::decode($bytes).unwrap().encode_to_vec(),)*
            other => panic!("no generated type is listed for {other}"),
        }
    };
}

#[expect(clippy::too_many_lines, reason = "a table with one line per message")]
fn again(name: &str, bytes: &[u8]) -> Vec<u8> {
    round_trip!(
        name,
        bytes,
        [
            AgentError,
            Hello,
            Capabilities,
            Display,
            DeviceAuthStartRequest,
            DeviceAuthStartResponse,
            DeviceAuthPollRequest,
            DeviceAuthPollResponse,
            EnrollmentCredentials,
            OperationResourcePolicy,
            ExecRequest,
            ExecResponse,
            FsReadRequest,
            FsReadResponse,
            FsWriteRequest,
            FsWriteResponse,
            FsListRequest,
            FsListResponse,
            FsEntry,
            FsMkdirRequest,
            FsMkdirResponse,
            FsMoveRequest,
            FsMoveResponse,
            FsStatRequest,
            FsStatResponse,
            FsRemoveRequest,
            FsRemoveResponse,
            GitRequest,
            GitResponse,
            GitStatus,
            GitFileStatus,
            PtyOpenRequest,
            PtyOpenResponse,
            PtyWriteRequest,
            PtyWriteResponse,
            PtyResizeRequest,
            PtyResizeResponse,
            PtyCloseRequest,
            PtyCloseResponse,
            DesktopEnsureRequest,
            DesktopEnsureResponse,
            DesktopInputRequest,
            DesktopInputResponse,
            DesktopScreenshotRequest,
            DesktopScreenshotResponse,
            Heartbeat,
            HostCapacitySample,
            AdmissionTelemetry,
            HeartbeatAck,
            MetricsRequest,
            MetricsSample,
            GpuSample,
            PingRequest,
            PingResponse,
            GoingOffline,
            ResumeRequest,
            ResumeResponse,
            UpdateCheckRequest,
            UpdateCheckResponse,
            UpdateManifest,
            UpdateArtifact,
            UpdateMayProceedRequest,
            UpdateMayProceedResponse,
            AgentUpdateApplyRequest,
            AgentUpdateApplyResponse,
            AgentUpdateProgress,
            OpExit,
            FsWriteBegin,
            OpStart,
            OpStarted,
            OpCancel,
            OpQuery,
            OpAttach,
            OpStatus,
            WriteChunk,
            WriteChunkAck,
            OpFrame,
            OpData,
            OpProgress,
            OpAck,
            ControlRequest,
            ControlResponse,
            HelloAck,
            AgentEvent,
            AgentEventAck,
            StreamChannel,
            StreamOpen,
            StreamOpenAck,
            StreamFrame,
            StreamClose,
            DesktopInput,
            PointerEvent,
            KeyEvent,
            ScrollEvent,
            Extension,
        ]
    )
}

#[test]
fn generated_types_decode_and_encode_every_vector() {
    for case in cases() {
        let encoded = again(&case.message, &case.bytes);
        assert_eq!(encoded, case.bytes, "{} {}", case.message, case.variant);
    }
}

#[test]
fn reflection_encodes_the_json_of_every_vector_to_the_same_bytes() {
    let pool = pool();
    for case in cases() {
        let descriptor = pool
            .get_message_by_name(&format!("{PACKAGE}.{}", case.message))
            .unwrap();
        let message = from_json(&descriptor, &case.json);
        assert_eq!(
            message.encode_to_vec(),
            case.bytes,
            "{} {}",
            case.message,
            case.variant
        );
        let decoded = DynamicMessage::decode(descriptor, case.bytes.as_slice()).unwrap();
        assert_eq!(decoded, message, "{} {}", case.message, case.variant);
    }
}

fn from_json(descriptor: &MessageDescriptor, json: &Value) -> DynamicMessage {
    DynamicMessage::deserialize(descriptor.clone(), json)
        .unwrap_or_else(|error| panic!("{}: {error}", descriptor.name()))
}

#[test]
fn every_message_has_a_vector() {
    let listed: BTreeSet<String> = cases().into_iter().map(|case| case.message).collect();
    let pool = pool();
    let ours: BTreeSet<String> = pool
        .all_messages()
        .filter(|message| !message.is_map_entry())
        .map(|message| message.name().to_owned())
        .collect();
    let extra: Vec<&str> = ours.difference(&listed).map(String::as_str).collect();
    assert_eq!(extra, WITHOUT_VECTOR);
    assert!(listed.is_subset(&ours), "{:?}", listed.difference(&ours));
}
