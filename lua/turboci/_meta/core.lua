---@meta turboci.core
-- Stubs of the C module `turboci.core` (engine/lua): messages, the virtual engine, the embedded server, the gRPC
-- client and the gRPC host. Everything above it is Lua.

---@class turboci.core
local core = {}

---The engine's version, such as "0.1.0".
---@type string
core.version = ""

---Stands for JSON's null inside a google.protobuf.Struct. The same value as cjson.null.
---@type lightuserdata
core.null = nil

---------------------------------------------------------------------------------------------------
-- Messages. A message is a plain table whose keys are the proto's field names:
--   enum        its name without the enum's own ("PLANNED", "ON_SUCCESS"); a full name or a number is accepted too;
--               a number that the engine does not know decodes as that number
--   Timestamp   a number, seconds since 1970 (microseconds kept), of the years 1 to 9999
--   Struct      a plain table; Value: nil is core.null, a table with only keys 1..n is a list (an empty
--               table is a Struct; core.list{} makes an empty list). NaN, infinity and integers beyond the 53 bits of a
--               JSON number are refused; whole numbers decode as integers; lists decode as marked by core.list
--   map         a table; repeated: an array; message: a table; int64: an integer (also a float that is one)
-- Decoding fills scalars with their defaults, repeated fields with {} (marked by core.list), map fields with {},
-- absent messages with nil.
-- Encoding reads tables raw, is the same whatever their order, and drops nothing: unknown keys, text that is not
-- UTF-8 and tables nested deeper than 100 are refused.

---@param message string full name, "turboci.v1.WriteNodesRequest"; the package may be left out. An unknown one raises.
---@param value any a table; for google.protobuf.Timestamp and Value what these are in Lua
---@return string? bytes nil when the value does not fit
---@return string? err names the path: "WriteNodesRequest.stages[1].argz: no such field; did you mean 'args'?"
function core.encode(message, value) end

---@param message string
---@param bytes string
---@return any? value
---@return string? err "Check.results[1]: malformed: not a protobuf message"
function core.decode(message, bytes) end

---Marks a table as a list (for empty ones) and returns it.
---@param t table
---@return table
function core.list(t) end

---Whether a Value made of it would be a list: it is marked, or not empty, and has no keys but 1..n.
---@param value any
---@return boolean
function core.is_list(value) end

---@class turboci.Method
---@field name string "WriteNodes"
---@field path string "/turboci.v1.TurboCIOrchestrator/WriteNodes"
---@field request string "turboci.v1.WriteNodesRequest"
---@field response string
---@field stream boolean the response is a stream
---@field service "TurboCIOrchestrator"|"StageRunner"

---By name ("WriteNodes") and by path.
---@type table<string, turboci.Method>
core.methods = {}

---By enum name: core.enums.CheckState.PLANNED == 20.
---@type table<string, table<string, integer>>
core.enums = {}

---gRPC status names by number and numbers by name: core.codes[5] == "NOT_FOUND", core.codes.NOT_FOUND == 5.
---@type table
core.codes = {}

---Names, defaults, meanings of the limits and the most that each may be, in order.
---@return {name: string, value: integer, most: integer, doc: string}[]
function core.limits() end

---------------------------------------------------------------------------------------------------
-- The virtual engine: the real core, codec and store; its clock and its transport are the caller's.

---A refused request, a WatchWorkPlan too, is answered by a reply; an OK WatchWorkPlan by nothing but its events.
---@class turboci.core.Output
---@field type "reply"|"dispatch"|"cancel"|"watch"|"watch_end"
---@field token integer? reply, watch, watch_end: what call() returned
---@field code integer? reply, watch_end
---@field message string? reply, watch_end: status text; "" when OK
---@field bytes string? reply (when OK), watch, dispatch: the encoded message
---@field sequence integer? watch
---@field execution_id string? dispatch, cancel
---@field mode "SYNC"|"ASYNC"? dispatch
---@field address string? dispatch: as the runner registered it, in dialable form
---@field method string? dispatch: path
---@field timeout_us integer? dispatch

---Closed by close(), `<close>` or the collector; then every method but close raises.
---@class turboci.core.Virtual
local Virtual = {}

---@class turboci.core.VirtualOptions
---@field database string? ":memory:"
---@field seed integer? of the events' random bytes; default 1
---@field start number? wall clock at the start, seconds since 1970; default 1700000000
---@field limits table<string, integer>?
---@field allow string[]? addresses runners may register; default { "loopback" }
---@field callback_address string? default "virtual:0"
---@field policies string|string[]|nil folders of policies (NAME.lua); of equal names the first folder's counts
---@field policy string? name of the policy that decides where nothing else is attached; default: the built-in
---@field policy_for table<string, string>? runner type -> name of its policy
---@field shadow string? a policy's path: it is asked too, its answers are noted and not used

---@param options turboci.core.VirtualOptions?
---@return turboci.core.Virtual? engine
---@return string? err
function core.virtual(options) end

---Runs one turn with this request. What it causes is in take().
---@param method string name or path of an orchestrator method
---@param bytes string the encoded request
---@return integer token
function Virtual:call(method, bytes) end
---Several requests in one turn (one commit).
---@param requests {[1]: string, [2]: string}[] method, bytes
---@return integer[] tokens
function Virtual:calls(requests) end
---A runner's RPC ended. One turn.
---@param execution_id string
---@param mode "SYNC"|"ASYNC"
---@param code integer
---@param message string? status text
---@param bytes string? RunResponse or RunAsyncResponse, when code is 0
function Virtual:answer(execution_id, mode, code, message, bytes) end
---The watch stream is closed by its reader. One turn.
---@param token integer
function Virtual:unwatch(token) end
---Everything the engine let out since the last take(), in order.
---@return turboci.core.Output[]
function Virtual:take() end
---@return integer mono_us
---@return integer wall_us
function Virtual:now() end
---Moves both clocks forward, running every turn that falls due on the way, each at its own time, in order.
---@param us integer
function Virtual:advance(us) end
---Runs turns until none is due now.
function Virtual:settle() end
---Moves both clocks forward and runs no turn, as when the engine is busy for so long: what is called or answered
---next had waited for it, and comes before the timers that fell due.
---@param us integer
function Virtual:keep_busy(us) end
---Moves the wall clock alone (a jump, or the time for which the engine's process stood still), in microseconds.
---@param us integer
function Virtual:jump_wall(us) end
---@return integer? us from now until the next timer; nil: there is none
function Virtual:next_due() end
---Throws the engine away without a word and recovers a new one from the store (a file; nil, err for ":memory:").
---Clocks, tokens and what take() has not taken stay.
---@return boolean? ok
---@return string? err
function Virtual:restart() end
---As GetServerInfo has them: turns, events, commits, records, journal_bytes, longest_turn_us, longest_turn_cpu_us
---and standstill_us (0: nobody measures here), policy_asks, policy_faults, policy_instructions,
---policy_circuits_opened, policy_reloads, shadow_asks, shadow_differs.
---@return table<string, integer>
function Virtual:counters() end
---What became of an attempt so far; nil: there is none.
---@param plan_id string
---@param node integer place of the stage among the plan's nodes, in order of creation, from 1
---@param index integer from 1
---@return {runner_id: string, execution: string, execution_ms: integer?, stale_ms: integer?}?
function Virtual:attempt(plan_id, node, index) end
---Checks every invariant of the model.
---@return string? violation
function Virtual:check() end
function Virtual:close() end

---------------------------------------------------------------------------------------------------
-- Journals: what happened, record by record. A field of a change that is zero or empty is nil. Enums come by name as in
-- messages, Structs as tables, edges as { { node = 3, condition = "ON_SUCCESS" }, predicate = "AND" } (of assignments
-- { node = 1, goal = "FINAL" }), ids as lists; of a runner, `mode` is the list of its modes. The names are those of
-- engine/core/change.h.

---@class turboci.core.Record
---@field plan_key integer 0: of no plan (runners, policies)
---@field plan_id string? nil when plan_key is 0
---@field sequence integer of its last change, in its plan
---@field version integer? of the plan, after it
---@field at_us integer wall clock, microseconds since 1970; never falls from record to record
---@field settled boolean the plan is, after it
---@field changes turboci.core.Change[]

---@class turboci.core.Change
---@field type "PLAN_CREATED"|"PLAN_STATE"|"CHECK_CREATED"|"CHECK_UPDATED"|"CHECK_STATE"|"CHECK_RESULT"|
---"STAGE_CREATED"|"STAGE_UPDATED"|"STAGE_STATE"|"EDGES"|"ATTEMPT"|"PROGRESS"|"RUNNER"|"RUNNER_GONE"|"POLICY"
---@field node integer? place among the plan's nodes, from 1
---@field decision {hook: string, policy: string?, version: string?, reason: string?, fault: string?,
---runner_id: string?, candidates: {runner_id: string, load: integer}[], candidates_total: integer?, again: boolean,
---after_us: integer?, exclude: string[], at_us: integer?, execution_ms: integer?, stale_ms: integer?,
---queue_ms: integer?, priority: integer?, keys: {key: string, limit: integer}[]}?

---Visits every record of a journal file in the order in which it was written, across plans. The file is only read: it
---may be a live server's, or a copy. What the visitor raises is raised.
---@param path string
---@param visit fun(record: turboci.core.Record)
---@return boolean? ok
---@return string? err
function core.journal(path, visit) end

---------------------------------------------------------------------------------------------------
-- Real parts. All that happens on other threads comes to this one through take(): fd() is readable when there is
-- something to take. A finaliser closes what was forgotten; `<close>` works on all of them.

---@class turboci.core.Server the whole engine on its own threads
local Server = {}

---@class turboci.core.ServerOptions
---@field listen string? "127.0.0.1:0"
---@field database string? ":memory:"
---@field limits table<string, integer>?
---@field allow string[]? addresses runners may register, besides loopback and the folder of a unix `listen`
---@field callback_address string?
---@field all_descriptors boolean? raises the soft limit of open files to the hard one, which children inherit
---@field log "debug"|"info"|"warn"|"error"|"off"? default "warn"; the level of the whole process
---@field policies string|string[]|nil folders of policies (NAME.lua); of equal names the first folder's counts
---@field policy string? name of the policy that decides where nothing else is attached; default: the built-in
---@field policy_for table<string, string>? runner type -> name of its policy
---@field shadow string? a policy's path: it is asked too, its answers are noted and not used

---@param options turboci.core.ServerOptions?
---@return turboci.core.Server? server
---@return string? err
function core.server(options) end
---@return string address as clients dial it
function Server:address() end
---Begins to stop and returns at once: writes are refused, nothing is dispatched any more.
function Server:drain() end
---Ends the drain now, whatever is still open.
function Server:leave() end
---@return integer fd readable once the drain is over; stop() does not wait then
function Server:fd() end
---Drains and stops; blocks up to drain_timeout_ms.
function Server:stop() end

---@class turboci.core.Event
---@field type "message"|"done"|"call"|"gone"
---@field handle integer? message, done
---@field code integer? done
---@field message string? done: status text
---@field bytes string? message, call; done: the response of a unary call that is OK
---@field host turboci.core.Host? call, gone
---@field call integer? call, gone: names the call in Host:reply
---@field method string? call: path
---@field timeout number? call: seconds until its deadline; nil: none

---An eventfd, readable while take() would return something.
---@return integer
function core.fd() end
---@return turboci.core.Event[]
function core.take() end

---Starts a call; its end comes as a "done" event.
---@param target string
---@param method string name or path; a path that is not ours is called as a unary method
---@param bytes string
---@param timeout number? seconds
---@return integer handle
function core.call(target, method, bytes, timeout) end
---"done" follows with CANCELLED, unless the call has ended already.
---@param handle integer
function core.cancel(handle) end

---@class turboci.core.Host a gRPC server whose calls are answered in Lua
local Host = {}
---@param listen string "127.0.0.1:0", "unix:/path"
---@return turboci.core.Host?
---@return string? err
function core.host(listen) end
---@return string
function Host:address() end
---Every "call" event is due exactly one reply, unless it is followed by "gone" (its caller cancelled, left, or its
---deadline passed): then it has ended.
---@param call integer
---@param code integer 0: OK
---@param message string? status text
---@param bytes string? the response, when OK
---@return boolean waited false: the call had ended before, or the host is closed
function Host:reply(call, code, message, bytes) end
---Ends every open call with UNAVAILABLE, waits for these answers to leave, and stops listening.
---@param grace number? seconds; default 1
function Host:close(grace) end

---------------------------------------------------------------------------------------------------
-- Policies: one file in the sandbox that the engine uses, asked without an engine. The same question gets the same
-- answer on every machine.

---@class turboci.core.Policy
---@field name string
---@field version string 16 hex digits of its content's hash
---@field path string
---@field hooks string[] those it has: "select", "retry", "timeout", "priority", "admit"
local Policy = {}

---Opens a policy as an engine does: it is compiled and run, and each hook is tried twice on sample views.
---@param path string
---@param options {folders: string[]?, limits: table<string, integer>?}? folders: where its `require` looks, too
---@return turboci.core.Policy? policy
---@return string? err "FILE:LINE: what"
function core.policy(path, options) end

---Asks a hook that the policy has. A view that makes no sense raises.
---@param hook string
---@param view turboci.core.View?
---@return turboci.core.PolicyAnswer
function Policy:ask(hook, view) end
function Policy:close() end

---@class turboci.core.PolicyAnswer
---@field answer any by hook, see turboci.testing.Policy
---@field reason string? what the policy says of it
---@field fault string? it could not answer, and why; then there is no answer
---@field cost integer instructions it took, about

---Everything may be left out: what is not said has a fixed value. Times are in seconds.
---@class turboci.core.View
---@field now number? since 1970; default 1700000000
---@field seed integer? of ctx.random; default 1
---@field plan {id: string?, metadata: table<string, string>?, policy: string?, created: number?}?
---@field stage turboci.core.ViewStage?
---@field attempt {waited: number?}? since it became ready
---@field attempts turboci.core.ViewAttempt[]? those that have ended, oldest first; retry: the last has just failed
---@field runners (string|turboci.core.ViewRunner)[]? the candidates, in order of registration; "a" is { id = "a" }

---@class turboci.core.ViewStage
---@field id string? default "stage"
---@field runner_type string? default "test"
---@field mode "SYNC"|"ASYNC"|nil default "SYNC"
---@field priority integer?
---@field args table?
---@field retry {max_attempts: integer?, backoff: number?, backoff_max: number?}?
---@field timeouts {execution: number?, stale: number?}?
---@field created number?

---@class turboci.core.ViewAttempt
---@field runner string? id
---@field failure string|{kind: string?, message: string?}|nil a kind such as "TIMEOUT"; default "REPORTED"
---@field queued number? from ready to dispatched
---@field ran number? from dispatched to its end
---@field ended number? when; default: as late as it can be

---@class turboci.core.ViewRunner
---@field id string
---@field type string? default: the stage's runner_type
---@field load integer?
---@field capacity integer? default: unlimited
---@field metadata table<string, string>?
---@field registered number?
---@field used integer? order of its last use; 0: never
---@field last_used number?
---@field succeeded integer? of its last executions, at most 32 with the failed ones
---@field failed integer?
---@field last_failed boolean? the newest of them failed

---------------------------------------------------------------------------------------------------
-- The program's own output: a thread writes, whole and in order over both streams, whatever the descriptors are.

---Queues bytes for stdout (1) or stderr (2), as they were when the first of these functions was called. Never waits.
---When the reader of a pipe is gone the process gets SIGPIPE.
---@param stream 1|2
---@param bytes string
function core.write(stream, bytes) end
---@return integer bytes that have not left yet
function core.unwritten() end
---Waits until all is written, or has failed.
function core.drain() end
---What failed on a stream; nothing: all is well. After a failure the rest is dropped.
---@param stream 1|2
---@return "EPIPE"|"EIO"|nil kind EPIPE: nobody reads it any more; EIO: anything else
---@return string? message the system's words
function core.write_error(stream) end
---@param stream 1|2
---@return integer? columns 0: it does not say; nil: not a terminal
---@return integer? rows
function core.terminal(stream) end
---File descriptor 1 becomes stderr for all but core.write.
function core.redirect() end
---Ends the process at once: nothing is waited for, closed or flushed.
---@param code integer
function core.leave(code) end

---Random bytes as hex, for ids.
---@param bytes integer
---@return string
function core.random_hex(bytes) end
return core
