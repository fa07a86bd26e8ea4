"""Policies as a client sees them: which there are, what they decided, why a node waits.

The messages and methods about policies are additions; the fields of the contract's own messages that name one (numbers
101 and 103) are written and found as bytes.
"""
import os
import pathlib
import shutil
import tempfile
import threading
import time
import unittest

import grpc

import foreign as f

PLAN_POLICY, CREATE_POLICY = 103, 101

POLICIES = {
    "smallest": """return {
  description = "the smallest id",
  select = function(ctx)
    if ctx.plan.metadata.branch == "stony" then error("this branch is stony") end
    local best = ctx.runners[1]
    for _, runner in ipairs(ctx.runners) do
      if runner.id < best.id then best = runner end
    end
    return best, "the smallest of " .. #ctx.runners
  end,
}
""",
    "closed": """return { select = function() return nil, "closed for today" end }
""",
    "elsewhere": """return {
  retry = function(ctx)
    if #ctx.attempts > 1 then return nil, "twice is enough" end
    return { after = 0.02, exclude = { ctx.attempts[1].runner } }, "try another"
  end,
}
""",
    "one_deploy": """return { admit = function() return { key = "deploy", limit = 1 } end }
""",
    "plain": """return { priority = function() return 7 end, timeout = function() return { execution = 60 } end }
""",
    "_words": """return {}
""",
}


class Policies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="turboci-foreign-"))
        cls.addClassCleanup(shutil.rmtree, cls.root, True)
        cls.folder = cls.root / "policies"
        cls.folder.mkdir()
        for name, text in POLICIES.items():
            (cls.folder / f"{name}.lua").write_text(text)
        cls.server = f.Server("--policies", str(cls.folder), "--policy", "plain", "--policy-for", "gpu=smallest")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    # ---- help ----

    def create(self, policy="", **metadata):
        """A plan with a policy of its own, watched; self.type is a runner type of its own."""
        named = f.unknown_field(CREATE_POLICY, policy.encode()) if policy else b""
        plan = self.server.call("CreateWorkPlan", metadata=metadata, append=named).work_plan
        self.plan, self.type = plan.id, "type-" + plan.id
        self.watch = self.server.watch(self.plan)
        self.addCleanup(self.watch.close)
        self.watch.stream.initial_metadata()
        return plan

    def runner(self, runner_id, **fields):
        runner = f.Runner(self.server, f"{runner_id}-{self.plan}", self.type, **fields)
        self.addCleanup(runner.close)
        return runner.fields["runner_id"], runner

    def submit(self, *stages):
        self.server.write(self.plan, stages=[f.StageWrite(id=stage, runner_type=self.type) for stage in stages])

    def explain(self, **node):
        return self.server.call("ExplainNode", work_plan_id=self.plan, **node)

    def explained(self, kind, **node):
        """Asks until an explanation of this kind is among the answers."""
        end = time.monotonic() + f.WAIT
        while time.monotonic() < end:
            answer = self.explain(**node)
            for explanation in answer.explanations:
                if explanation.kind == kind:
                    self.assertEqual(f.EXPLANATION_KIND_STATE, answer.explanations[0].kind)
                    return explanation
        raise AssertionError(f"asked in vain: {answer}")

    def execution(self, stage="s", attempt=0):
        return self.server.call("GetStageExecution", work_plan_id=self.plan, stage_id=stage,
                                attempt_idx=attempt).execution

    def policies(self):
        return {policy.name: policy for policy in self.server.call("ListPolicies").policies}

    def put(self, name, text):
        """A whole file at once, as editors and deployments do it."""
        fresh = self.root / "fresh"
        fresh.write_text(text)
        os.replace(fresh, self.folder / f"{name}.lua")

    def reload(self):
        """The policies by name after a reload, and what it says has changed (the server may have seen it before)."""
        answer = self.server.call("ReloadPolicies")
        return {policy.name: policy for policy in answer.policies}, set(answer.changed)

    # ---- which there are ----

    def test_the_list_has_every_policy_by_name_and_no_library(self):
        listed = [policy.name for policy in self.server.call("ListPolicies").policies]
        self.assertEqual(sorted(listed), listed)
        self.assertEqual(set(), {name for name in POLICIES if name != "_words"} - set(listed))
        self.assertNotIn("_words", listed)
        policies = self.policies()
        for policy in policies.values():
            self.assertRegex(policy.version, "^[0-9a-f]{16}$")
            self.assertEqual("", policy.error)
            self.assertFalse(policy.circuit_open or policy.HasField("circuit_until"))
        plain = policies["plain"]
        self.assertEqual((["timeout", "priority"], ["server"]), (list(plain.hooks), list(plain.attached_to)))
        self.assertEqual(["type:gpu"], list(policies["smallest"].attached_to))
        self.assertEqual([], list(policies["closed"].attached_to))
        self.assertTrue(os.path.samefile(self.folder / "closed.lua", policies["closed"].path))

    def test_a_changed_file_is_taken_over_by_a_reload(self):
        self.put("changing", "return { priority = function() return 1 end }\n")
        first, changed = self.reload()
        self.assertLessEqual(changed, {"changing"})
        self.assertEqual(["priority"], list(first["changing"].hooks))
        self.put("changing", "return { select = function(ctx) return ctx.runners[1] end }\n")
        second, changed = self.reload()
        self.assertLessEqual(changed, {"changing"})
        self.assertEqual(["select"], list(second["changing"].hooks))
        self.assertNotEqual(first["changing"].version, second["changing"].version)
        (self.folder / "changing.lua").unlink()
        third, changed = self.reload()
        self.assertLessEqual(changed, {"changing"})
        self.assertNotIn("changing", third)
        self.assertEqual(set(), self.reload()[1])

    def test_a_bad_file_keeps_the_old_policy_and_says_where_it_is_bad(self):
        good = "return {\n  priority = function() return 1 end,\n}\n"
        self.put("mending", good)
        self.addCleanup(self.reload)  # behind the next line: it is gone at once, and not while another test looks
        self.addCleanup((self.folder / "mending.lua").unlink)
        before = self.reload()[0]["mending"]
        self.put("mending", good.replace("return 1", "retrun 1"))
        broken = self.reload()[0]["mending"]
        self.assertEqual(before.version, broken.version)
        self.assertIn("mending.lua:2:", broken.error)
        self.put("mending", good)
        mended = self.reload()[0]["mending"]
        self.assertEqual((before.version, ""), (mended.version, mended.error))

    # ---- plans ----

    def test_a_plan_keeps_and_shows_its_policy(self):
        named = f.unknown_field(PLAN_POLICY, b"closed")
        self.assertIn(named, self.create("closed").SerializeToString())
        self.assertIn(named, self.server.call("GetWorkPlan", id=self.plan).SerializeToString())

    def test_a_policy_that_is_not_there_is_refused_by_name(self):
        for name in (b"nobody", b"_words", b"../closed"):
            text = f.refused(grpc.StatusCode.INVALID_ARGUMENT, self.server.call, "CreateWorkPlan",
                             append=f.unknown_field(CREATE_POLICY, name))
            self.assertIn(name.decode(), text)
        for name, why in ((b"x" * 257, "id_bytes_max"), (b"a\nb", "control character"), (b"\xff", "UTF-8")):
            text = f.refused(grpc.StatusCode.INVALID_ARGUMENT, self.server.call, "CreateWorkPlan",
                             append=f.unknown_field(CREATE_POLICY, name))
            self.assertIn("CreateWorkPlanRequest.policy", text)
            self.assertIn(why, text)

    # ---- what was decided ----

    def test_an_execution_tells_who_chose_its_runner_and_why(self):
        self.create("smallest")
        second, _ = self.runner("b")
        first, _ = self.runner("a")
        self.submit("s")
        self.watch.until_stage("s", f.STAGE_STATE_FINAL)
        execution = self.execution()
        select = [decision for decision in execution.decisions if decision.hook == "select"]
        self.assertEqual(1, len(select))
        decision = select[0]
        self.assertEqual(("smallest", first, "the smallest of 2", ""),
                         (decision.policy, decision.runner_id, decision.reason, decision.fault))
        self.assertEqual(self.policies()["smallest"].version, decision.version)
        self.assertTrue(decision.HasField("decided_at"))
        self.assertEqual([(second, 0), (first, 0)],
                         [(candidate.runner_id, candidate.load) for candidate in decision.candidates])
        self.assertEqual(2, decision.candidates_total)
        self.assertEqual(first, execution.runner_id)
        answer = self.explain(stage_id="s")
        self.assertEqual(list(execution.decisions), list(answer.decisions))
        why = next(e for e in answer.explanations if e.kind == f.EXPLANATION_KIND_DECISION)
        self.assertEqual((first, 1), (why.subject, why.attempt_idx))
        for word in ("smallest", first, "the smallest of 2"):
            self.assertIn(word, why.text)
        self.assertGreaterEqual(self.policies()["smallest"].calls, 1)

    def test_a_fault_is_told_and_the_default_decides(self):
        self.create("smallest", branch="stony")
        only, _ = self.runner("a")
        self.submit("s")
        self.watch.until_stage("s", f.STAGE_STATE_FINAL)
        decision = next(d for d in self.execution().decisions if d.hook == "select")
        self.assertEqual(("smallest", only), (decision.policy, decision.runner_id))
        self.assertRegex(decision.fault, r"smallest\.lua:4:.*this branch is stony")
        policy = self.policies()["smallest"]
        self.assertGreaterEqual(policy.faults, 1)
        self.assertIn("this branch is stony", policy.last_fault)
        self.assertIn("this branch is stony",
                      self.explained(f.EXPLANATION_KIND_POLICY_FAULT, stage_id="s").text)

    def test_a_retry_tells_when_and_without_whom(self):
        self.create("elsewhere")
        refuse = f.RunResponse(failure=f.Failure(message="not here"))
        ids = [self.runner(name, run=lambda request, context: refuse)[0] for name in ("a", "b")]
        self.submit("s")
        self.watch.until_stage("s", f.STAGE_STATE_FINAL)
        one, two = self.execution(attempt=1), self.execution(attempt=2)
        self.assertEqual({one.runner_id, two.runner_id}, set(ids))
        again = next(d for d in one.decisions if d.hook == "retry")
        self.assertEqual(("elsewhere", "try another", True, 20),
                         (again.policy, again.reason, again.again, again.after_ms))
        self.assertEqual([one.runner_id], list(again.excluded_runners))
        self.assertEqual(([], [one.runner_id]), (list(one.excluded_runners), list(two.excluded_runners)))
        enough = next(d for d in two.decisions if d.hook == "retry")
        self.assertEqual((False, "twice is enough"), (enough.again, enough.reason))
        answer = self.explain(stage_id="s")
        self.assertEqual([*one.decisions, *two.decisions], list(answer.decisions))
        ends = [e for e in answer.explanations if e.kind == f.EXPLANATION_KIND_ATTEMPT]
        self.assertEqual([1, 2], [e.attempt_idx for e in ends])
        self.assertIn("not here", ends[0].text)

    # ---- why it waits ----

    def test_it_says_that_the_policy_said_wait(self):
        self.create("closed")
        self.runner("a")
        self.submit("s")
        waits = self.explained(f.EXPLANATION_KIND_POLICY_WAIT, stage_id="s")
        self.assertEqual(("closed", 1), (waits.subject, waits.attempt_idx))
        self.assertIn("closed for today", waits.text)

    def test_an_admission_key_is_held_and_shown(self):
        self.create("one_deploy")
        going = threading.Event()
        self.addCleanup(going.set)

        def run(request, context):
            going.wait(f.WAIT)
            return f.success(request)

        _, runner = self.runner("a", run=run)
        self.submit("s", "t")
        running = runner.next()[0].stage_id
        waiting = "t" if running == "s" else "s"
        held = self.explained(f.EXPLANATION_KIND_ADMISSION, stage_id=waiting)
        self.assertEqual("deploy", held.subject)
        self.assertIn("deploy", held.text)
        self.assertEqual(["deploy"], list(self.execution(running).admission_keys))
        self.assertEqual(1, self.explained(f.EXPLANATION_KIND_RUNNING, stage_id=running).attempt_idx)
        self.assertTrue(runner.received.empty())
        going.set()
        self.watch.until_complete()

    def test_it_names_the_dependency_and_the_missing_runner(self):
        self.create()
        depends = f.DependencyGroup(predicate=f.PREDICATE_TYPE_AND, dependencies=[
            f.Dependency(target_type=f.NODE_TYPE_STAGE, target_id="s")])
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)], stages=[
            f.StageWrite(id="s", runner_type=self.type, assignments=[f.Assignment(target_check_id="c")]),
            f.StageWrite(id="t", runner_type=self.type, dependencies=depends)])
        self.assertEqual("s", self.explained(f.EXPLANATION_KIND_DEPENDENCY, stage_id="t").subject)
        nobody = self.explained(f.EXPLANATION_KIND_NO_RUNNER, stage_id="s")
        self.assertIn(self.type, nobody.text)
        result = self.explained(f.EXPLANATION_KIND_RESULT, check_id="c")
        self.assertEqual("s", result.subject)
        self.assertEqual(0, len(self.explain(check_id="c").decisions))

    def test_what_cannot_be_explained_is_refused_by_name(self):
        self.create()
        self.submit("s")
        for node in ({}, {"stage_id": "s", "check_id": "c"}):
            text = f.refused(grpc.StatusCode.INVALID_ARGUMENT, self.explain, **node)
            self.assertTrue("stage_id" in text and "check_id" in text, text)
        self.assertIn("work_plan_id", f.refused(grpc.StatusCode.INVALID_ARGUMENT, self.server.call, "ExplainNode",
                                                stage_id="s"))
        self.assertIn("'nobody'", f.refused(grpc.StatusCode.NOT_FOUND, self.explain, stage_id="nobody"))
        self.assertIn("wp-none", f.refused(grpc.StatusCode.NOT_FOUND, self.server.call, "ExplainNode",
                                           work_plan_id="wp-none", stage_id="s"))


if __name__ == "__main__":
    unittest.main()
