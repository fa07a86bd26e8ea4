-- The testing plan: the 47 tests it names, by category. The tests of a category are in tests/spec/CATEGORY_spec.lua and
-- run in both worlds; each carries its name as a tag (#TestLongChain) in its title, and a name may have several tests.
-- Read by tests/plan_list.lua (`./dev test --list`).
local categories = {
  { "basic", {
    "TestBasicSyncExecution", "TestBasicAsyncExecution", "TestStageWithMultipleChecks",
    "TestSequentialStages", "TestParallelStages",
  } },
  { "runner", {
    "TestRunnerRegistration", "TestRunnerHeartbeat", "TestRunnerUnregistration",
    "TestRunnerExpiration", "TestMultipleRunnersSameType", "TestMultipleRunnerTypes",
    "TestRunnerMetadata",
  } },
  { "dispatcher", {
    "TestDispatcherSelectsRunner", "TestDispatcherLoadBalancing", "TestDispatcherNoRunnerAvailable",
    "TestDispatcherRunnerBecomesAvailable", "TestDispatcherRespectsModeSupport",
    "TestDispatcherRespectsCapacity",
  } },
  { "execution", {
    "TestSyncExecutionSuccess", "TestSyncExecutionFailure", "TestAsyncExecutionSuccess",
    "TestAsyncExecutionProgress", "TestAsyncExecutionFailure", "TestExecutionTimeout",
    "TestExecutionDeadline",
  } },
  { "workflow", {
    "TestDiamondDependency", "TestLongChain", "TestFanOutFanIn", "TestParallelBranches",
    "TestCIStylePipeline", "TestMultiPlatformBuild", "TestConditionalExecution",
    "TestLargeWorkflow",
  } },
  { "callback", {
    "TestProgressUpdatesRecorded", "TestProgressUpdatesMultiple", "TestCheckUpdatesFromCallback",
    "TestMultipleCheckUpdates", "TestCallbackTriggersDownstream", "TestCallbackWithFailure",
  } },
  { "error", {
    "TestRunnerDisconnect", "TestStaleExecution", "TestExecutionRetry",
    "TestPartialWorkflowFailure", "TestInvalidCallback", "TestDuplicateCompletion",
    "TestRunnerRejectsWork", "TestConcurrentModification",
  } },
}

---@type {name: string, category: string}[]
local plan = {}
for _, category in ipairs(categories) do
  for _, name in ipairs(category[2]) do plan[#plan + 1] = { name = name, category = category[1] } end
end
return plan
