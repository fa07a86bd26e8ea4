"""Plans and nodes, written and read by a client that knows the contract only."""
import unittest

import grpc

import foreign as f

FINAL = f.CHECK_STATE_FINAL


def after_stage(*ids, predicate=f.PREDICATE_TYPE_AND):
    return f.DependencyGroup(predicate=predicate, dependencies=[
        f.Dependency(target_type=f.NODE_TYPE_STAGE, target_id=id) for id in ids])


class Nodes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = f.Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def setUp(self):
        self.plan = self.server.plan(branch="main", commit="1f2e")

    def test_a_plan_is_created_and_read(self):
        plan = self.server.call("GetWorkPlan", id=self.plan).work_plan
        self.assertEqual((self.plan, 1), (plan.id, plan.version))
        self.assertTrue(plan.HasField("created_at") and plan.HasField("updated_at"))

    def test_an_unknown_plan_is_not_found_by_any_method(self):
        for method, fields in (("GetWorkPlan", {"id": "wp-none"}),
                               ("WriteNodes", {"work_plan_id": "wp-none", "checks": [f.CheckWrite(id="c")]}),
                               ("QueryNodes", {"work_plan_id": "wp-none", "include_checks": True})):
            self.assertIn("wp-none", f.refused(grpc.StatusCode.NOT_FOUND, self.server.call, method, **fields))
        error = self.server.watch("wp-none").until_ended()
        self.assertEqual(grpc.StatusCode.NOT_FOUND, error.code())

    def test_checks_are_planned_and_finalised(self):
        answer = self.server.write(self.plan, checks=[
            f.CheckWrite(id="build", kind="build", state=f.CHECK_STATE_PLANNED,
                         options=f.struct(target="linux", jobs=4, flags=["-O2", "-g"], nested={"a": 1, "b": {"c": 2}})),
            f.CheckWrite(id="review", kind="review", state=f.CHECK_STATE_PLANNING)])
        self.assertEqual(["build", "review"], [check.id for check in answer.checks])
        # Nothing stands before it: PLANNED advances in the same step.
        self.assertEqual(f.CHECK_STATE_WAITING, answer.checks[0].state)
        self.assertEqual(f.CHECK_STATE_PLANNING, answer.checks[1].state)
        nodes = self.server.nodes(self.plan)
        self.assertEqual({"c": 2.0}, dict(nodes["build"].options["nested"]["b"]))
        self.assertEqual(["-O2", "-g"], list(nodes["build"].options["flags"]))
        # Straight from PLANNING to FINAL, with a result.
        answer = self.server.write(self.plan, checks=[f.CheckWrite(
            id="review", state=FINAL,
            result=f.CheckResultWrite(owner_type="user", owner_id="eve", data=f.struct(ok=True, by="eve"), finalize=True))])
        review = answer.checks[0]
        self.assertEqual((FINAL, 1, "eve"), (review.state, len(review.results), review.results[0].owner_id))
        self.assertTrue(review.results[0].HasField("finalized_at"))
        self.assertEqual({"ok": True, "by": "eve"}, dict(review.results[0].data))

    def test_options_merge_by_key(self):
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", options=f.struct(a=1, b=2))])
        check = self.server.write(self.plan, checks=[f.CheckWrite(id="c", options=f.struct(b=3, c=4))]).checks[0]
        self.assertEqual({"a": 1.0, "b": 3.0, "c": 4.0}, dict(check.options))

    def test_a_final_node_stays_as_it_is(self):
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", kind="k", state=FINAL), f.CheckWrite(id="open")])
        same = self.server.write(self.plan, checks=[f.CheckWrite(id="c", kind="k", state=FINAL)]).checks[0]
        text = f.refused(grpc.StatusCode.FAILED_PRECONDITION, self.server.write, self.plan,
                         checks=[f.CheckWrite(id="open", kind="new"),
                                 f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)])
        for word in ("'c'", "FINAL", "PLANNED"):
            self.assertIn(word, text)
        nodes = self.server.nodes(self.plan)
        self.assertEqual(same, nodes["c"])
        self.assertEqual("", nodes["open"].kind)  # all or nothing

    def test_what_makes_no_sense_is_refused_by_name(self):
        no_argument = grpc.StatusCode.INVALID_ARGUMENT
        self.assertIn("id", f.refused(no_argument, self.server.write, self.plan, checks=[f.CheckWrite(kind="k")]))
        self.assertIn("'typo'", f.refused(no_argument, self.server.write, self.plan, stages=[
            f.StageWrite(id="s", runner_type="t", dependencies=after_stage("typo"))]))
        self.assertIn("'nowhere'", f.refused(no_argument, self.server.write, self.plan, stages=[
            f.StageWrite(id="s", runner_type="t", assignments=[f.Assignment(target_check_id="nowhere")])]))
        text = f.refused(no_argument, self.server.write, self.plan, stages=[
            f.StageWrite(id="s1", runner_type="t", dependencies=after_stage("s2")),
            f.StageWrite(id="s2", runner_type="t", dependencies=after_stage("s1"))])
        self.assertTrue("s1" in text and "s2" in text, text)
        self.assertEqual({}, self.server.nodes(self.plan))

    def test_stages_without_state_are_planned_and_the_ready_ones_attempted(self):
        answer = self.server.write(self.plan, stages=[
            f.StageWrite(id="first", runner_type="nobody", args=f.struct(cmd="make", n=1)),
            f.StageWrite(id="second", runner_type="nobody", dependencies=after_stage("first"))])
        first, second = answer.stages
        self.assertEqual((f.STAGE_STATE_ATTEMPTING, f.STAGE_STATE_PLANNED), (first.state, second.state))
        self.assertEqual((1, f.ATTEMPT_STATE_PENDING), (first.attempts[0].idx, first.attempts[0].state))
        self.assertEqual(0, len(second.attempts))
        self.assertEqual(f.EXECUTION_MODE_SYNC, first.execution_mode)

    def test_a_query_leaves_out_what_is_not_there(self):
        self.server.write(self.plan, checks=[f.CheckWrite(id="c1"), f.CheckWrite(id="c2", state=FINAL)],
                          stages=[f.StageWrite(id="s", runner_type="nobody")])

        def query(**fields):
            found = self.server.call("QueryNodes", work_plan_id=self.plan, **fields)
            return [node.id for node in (*found.checks, *found.stages)]

        both = {"include_checks": True, "include_stages": True}
        self.assertEqual([], query())
        self.assertEqual(["c1", "c2"], query(include_checks=True))
        self.assertEqual(["c1"], query(include_checks=True, check_ids=["not-yet", "c1"]))
        self.assertEqual([], query(include_checks=True, check_ids=["not-yet"]))
        self.assertEqual([], query(include_stages=True, stage_ids=["not-yet"]))
        self.assertEqual(["c2"], query(include_checks=True, check_states=[FINAL]))
        self.assertEqual(["c1", "c2", "s"], query(**both))
        self.assertEqual(["s"], query(include_stages=True, stage_states=[f.STAGE_STATE_ATTEMPTING]))

    def test_requests_may_be_compressed(self):
        checks = [f.CheckWrite(id=f"c{i}", options=f.struct(text="long and dull " * 200)) for i in range(50)]
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            plan = self.server.plan()
            self.server.write(plan, checks=checks, compression=compression)
            self.assertEqual(50, len(self.server.nodes(plan)))

    def test_unknown_fields_are_ignored(self):
        extra = f.unknown_field() + f.unknown_field(20000, b"\xff\x00")
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)], append=extra)
        found = self.server.call("QueryNodes", work_plan_id=self.plan, include_checks=True, append=extra)
        self.assertEqual("c", found.checks[0].id)

    def test_answers_hold_fields_that_their_old_reader_skips(self):
        def write(**fields):
            return self.server.write(self.plan, stages=[f.StageWrite(id="s", **fields)]).stages[0]

        write()
        write(current_attempt=f.AttemptWrite(process_uid="me"))
        write(current_attempt=f.AttemptWrite(state=f.ATTEMPT_STATE_INCOMPLETE, failure=f.Failure(message="no")))
        stage = write(state=f.STAGE_STATE_FINAL)
        self.assertEqual((f.STAGE_STATE_FINAL, "no"), (stage.state, stage.attempts[0].failure.message))
        size = stage.ByteSize()
        stage.DiscardUnknownFields()
        self.assertLess(stage.ByteSize(), size)

    def test_a_pulled_stage_is_claimed_completed_and_closed(self):
        def attempt(**fields):
            return self.server.write(self.plan, stages=[
                f.StageWrite(id="pulled", current_attempt=f.AttemptWrite(**fields))]).stages[0]

        stage = self.server.write(
            self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)],
            stages=[f.StageWrite(id="pulled", assignments=[f.Assignment(target_check_id="c", goal_state=FINAL)]),
                    f.StageWrite(id="next", dependencies=after_stage("pulled"))]).stages[0]
        self.assertEqual((f.STAGE_STATE_ATTEMPTING, f.ATTEMPT_STATE_PENDING), (stage.state, stage.attempts[0].state))
        self.assertEqual(f.ATTEMPT_STATE_RUNNING, attempt(process_uid="worker-1").attempts[0].state)
        self.assertIn("worker-1", f.refused(grpc.StatusCode.FAILED_PRECONDITION, attempt, process_uid="worker-2"))
        stage = attempt(process_uid="worker-1", progress=f.ProgressEntry(message="half way"))
        self.assertEqual(["half way"], [entry.message for entry in stage.attempts[0].progress])
        stage = attempt(state=f.ATTEMPT_STATE_COMPLETE, details=f.struct(seconds=3, host="h"))
        self.assertEqual((f.STAGE_STATE_ATTEMPTING, f.ATTEMPT_STATE_COMPLETE), (stage.state, stage.attempts[0].state))
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=FINAL, result=f.CheckResultWrite(
            owner_type="stage", owner_id="pulled", data=f.struct(passed=7), finalize=True))],
            stages=[f.StageWrite(id="pulled", state=f.STAGE_STATE_FINAL)])
        nodes = self.server.nodes(self.plan)
        self.assertEqual((f.STAGE_STATE_FINAL, FINAL), (nodes["pulled"].state, nodes["c"].state))
        self.assertEqual({"passed": 7.0}, dict(nodes["c"].results[0].data))
        self.assertEqual(f.STAGE_STATE_ATTEMPTING, nodes["next"].state)

    def test_a_stage_of_the_engine_is_not_written_by_clients(self):
        self.server.write(self.plan, stages=[f.StageWrite(id="s", runner_type="nobody")])
        f.refused(grpc.StatusCode.FAILED_PRECONDITION, self.server.write, self.plan, stages=[
            f.StageWrite(id="s", current_attempt=f.AttemptWrite(process_uid="me"))])
        f.refused(grpc.StatusCode.FAILED_PRECONDITION, self.server.write, self.plan, stages=[
            f.StageWrite(id="s", state=f.STAGE_STATE_FINAL)])


if __name__ == "__main__":
    unittest.main()
