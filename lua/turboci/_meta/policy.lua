---@meta
-- Types of policies (policies/*.lua), for editors that know LuaLS. Put this above the table that a policy returns, and
-- its hooks are completed and checked:
--
--     ---@type turboci.Policy
--     return { select = function(ctx) ... end }
--
-- The contract in words is policies/README.md.

-- ---- the policy ----

---What a file policies/NAME.lua returns. At least one hook; any other key is refused. A hook that is not there is the
---built-in default's. Every hook may return a reason as its second value, a text for people.
---@class turboci.Policy
---@field name string? must be the file's, without ".lua": best left out, so that copies need no change inside
---@field description string? one line, for those who read the file
---@field select (fun(ctx: turboci.policy.Select): turboci.policy.Selected, string?)?
---@field retry (fun(ctx: turboci.policy.Retry): turboci.policy.Again?, string?)?
---@field timeout (fun(ctx: turboci.policy.Context): turboci.policy.Timeouts?, string?)?
---@field priority (fun(ctx: turboci.policy.Context): integer?, string?)?
---@field admit (fun(ctx: turboci.policy.Context): turboci.policy.Admission?, string?)?

-- ---- what a hook is shown ----

---All of it is read-only, and valid during the call only. Times are seconds: moments since 1970, durations plain.
---@class turboci.policy.Context
---@field hook "select"|"retry"|"timeout"|"priority"|"admit"
---@field now number the server's clock when it was asked
---@field random turboci.policy.Random
---@field defaults turboci.policy.Defaults
---@field plan turboci.policy.Plan
---@field stage turboci.policy.Stage
---@field attempt turboci.policy.Attempt the attempt that waits; retry: that has just failed
---@field attempts turboci.policy.Ended[] those of this stage that have ended, oldest first

---@class turboci.policy.Select : turboci.policy.Context
---@field runners turboci.policy.Runner[] who could run it now (not who is busy), in order of registration; never empty

---@class turboci.policy.Retry : turboci.policy.Context
---@field failure turboci.policy.Failure of the attempt that has just failed, which is the last of `attempts`

---The same question gets the same numbers.
---random() is in [0, 1); random(n) a whole number from 1 to n; random(m, n) one from m to n.
---@alias turboci.policy.Random fun(m: integer?, n: integer?): number

---The server's limits.
---@class turboci.policy.Defaults
---@field attempts_max integer
---@field delivery_attempts_max integer
---@field backoff number seconds
---@field backoff_max number seconds
---@field execution number seconds
---@field stale number seconds

---@class turboci.policy.Plan
---@field id string
---@field metadata table<string, string>
---@field policy string? the policy it was submitted with
---@field created number

---@class turboci.policy.Stage
---@field id string
---@field runner_type string
---@field mode "SYNC"|"ASYNC"
---@field priority integer
---@field args table? nil when they are larger than the limit policy_view_bytes_max
---@field args_omitted boolean? true then
---@field retry turboci.policy.OwnRetry? nil: the stage says nothing about retries
---@field timeouts turboci.policy.OwnTimeouts? nil: nor about timeouts
---@field created number

---@class turboci.policy.OwnRetry
---@field max_attempts integer?
---@field backoff number? seconds
---@field backoff_max number? seconds

---@class turboci.policy.OwnTimeouts
---@field execution number? seconds
---@field stale number? seconds

---@class turboci.policy.Attempt
---@field index integer from 1
---@field waited number seconds since it became ready; retry: those it waited before it was dispatched
---@field excluded integer how many runners it must not go to
---@field elsewhere boolean? retry, timeout: somebody else, busy or not, could take it: who has not failed the stage

---@class turboci.policy.Ended
---@field index integer from 1
---@field runner string? id; nil: it never had one
---@field failure turboci.policy.Failure
---@field queued number seconds from ready to dispatch
---@field ran number? seconds from dispatch to end; nil: never dispatched
---@field ended number

---@class turboci.policy.Failure
---@field kind turboci.policy.FailureKind
---@field message string

---@alias turboci.policy.FailureKind
---| "REPORTED" the runner said so
---| "REJECTED" the runner did not take it
---| "UNREACHABLE" the runner could not be reached
---| "TIMEOUT" its deadline passed
---| "STALE" async, and silent for too long
---| "RUNNER_LOST" the runner's registration expired
---| "ENGINE_RESTART" the server died while it ran
---| "PROTOCOL" the runner's answer made no sense
---| "CANCELLED"
---| "POLICY" a policy ended it
---| "UNKNOWN"

---@class turboci.policy.Runner
---@field id string
---@field type string
---@field load integer executions it has now
---@field capacity integer? how many it takes; nil: any number
---@field free number capacity - load; math.huge: any number
---@field metadata table<string, string>
---@field registered number
---@field used integer order of its last dispatch: the higher the later; 0: never
---@field last_used number? nil: never
---@field succeeded integer of its last executions (at most 32) that ended
---@field failed integer of the same
---@field last_failed boolean the newest of them failed

-- ---- what it answers ----

---A runner of ctx.runners, or its id. nil: nobody now; asked again when something changes. { wait = seconds }: and not
---before, whoever comes meanwhile.
---@alias turboci.policy.Selected turboci.policy.Runner|string|turboci.policy.Wait|nil

---@class turboci.policy.Wait
---@field wait number seconds

---nil: no further attempt.
---@class turboci.policy.Again
---@field after number? seconds; default 0
---@field exclude (string|turboci.policy.Runner)[]? runners that do not get it; if they may be all, give timeout a queue

---What is left out is the built-in default's.
---@class turboci.policy.Timeouts
---@field execution number? seconds from dispatch to the deadline
---@field stale number? seconds of silence, async only
---@field queue number? seconds it may wait for a runner before the attempt fails; default: no limit

---nil: now. Else once every key has room, or not before a time.
---@class turboci.policy.Admission
---@field key string? held while it is with a runner
---@field limit integer? at most so many at once hold the key
---@field keys turboci.policy.Key[]? several keys
---@field wait number? seconds; alone

---@class turboci.policy.Key
---@field key string
---@field limit integer

-- ---- the sandbox, where it differs from Lua 5.4 ----

---The globals of a policy are these and, as in Lua, assert, error, ipairs, pcall, select, tonumber, tostring, type,
---math (without random and randomseed), string and table; nothing else, and all of them read-only. Reading a global
---that is not there is an error. A class of its own, since declaring them as globals would change them everywhere.
---@class turboci.policy.Globals
---@field pairs fun(t: table): function walks numbers, then strings, then booleans, each in order; other keys: an error
---@field require fun(name: string): any another file of the policy's folders; each policy has its own copy of it
---@field setmetatable fun(t: table, m: table?): table refuses __gc __close __len __mode __metatable, and views
---@field getmetatable fun(t: any): table? of tables only: nil for texts and views
---@field string turboci.policy.String

---Also methods of texts: ("x"):upper(). There are no patterns: no match, gmatch, gsub; no dump, pack, unpack.
---@class turboci.policy.String
---@field byte fun(s: string, i: integer?, j: integer?): integer ...
---@field char fun(...: integer): string
---@field find fun(s: string, text: string, from: integer?): integer?, integer? plain text, always
---@field format fun(format: string, ...: any): string all but %p
---@field len fun(s: string): integer
---@field lower fun(s: string): string
---@field rep fun(s: string, n: integer, separator: string?): string
---@field reverse fun(s: string): string
---@field sub fun(s: string, i: integer, j: integer?): string
---@field upper fun(s: string): string
