"""Runners that know the contract only: registering, sync and async execution, what they may answer."""
import threading
import unittest

import grpc

import foreign as f

SYNC, ASYNC = f.EXECUTION_MODE_SYNC, f.EXECUTION_MODE_ASYNC
COMPLETE, INCOMPLETE = f.ATTEMPT_STATE_COMPLETE, f.ATTEMPT_STATE_INCOMPLETE


class Runners(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Rejections are tried again after a backoff; a real second would be waited for in vain.
        cls.server = f.Server("--limit", "backoff_ms=10", "--limit", "pass_over_ms=50")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def setUp(self):
        self.plan = self.server.plan()
        self.type = "type-" + self.plan
        self.watch = self.server.watch(self.plan)
        self.addCleanup(self.watch.close)

    def runner(self, runner_id="r", **fields):
        runner = f.Runner(self.server, f"{runner_id}-{self.plan}", self.type, **fields)
        self.addCleanup(runner.close)
        return runner

    def submit(self, mode=SYNC, args=None, checks=("c",), stages=("s",)):
        """Stages in a chain, the first one assigned to all the checks, each with options."""
        written = []
        for i, stage in enumerate(stages):
            written.append(f.StageWrite(id=stage, runner_type=self.type, execution_mode=mode, args=args))
            if i > 0:
                written[i].dependencies.dependencies.add(target_type=f.NODE_TYPE_STAGE, target_id=stages[i - 1])
            else:
                written[i].assignments.extend(
                    f.Assignment(target_check_id=check, goal_state=f.CHECK_STATE_FINAL) for check in checks)
        self.server.write(self.plan, checks=[f.CheckWrite(id=check, kind="build", state=f.CHECK_STATE_PLANNED,
                                                          options=f.struct(of=check)) for check in checks],
                          stages=written)

    def stage(self, stage_id="s"):
        return self.server.nodes(self.plan)[stage_id]

    def info(self, runner):
        found = self.server.call("ListStageRunners", runner_type=self.type).runners
        return next((info for info in found if info.runner_id == runner.fields["runner_id"]), None)

    # ---- registration ----

    def test_the_list_shows_the_address_as_registered(self):
        for name, address in (("port", ":{}"), ("localhost", "localhost:{}"), ("zeros", "0.0.0.0:{}")):
            runner = self.runner(name, address=address, max_concurrent=3, metadata={"os": "linux", "arch": "arm64"})
            info = self.info(runner)
            self.assertEqual(runner.address, info.address)
            self.assertEqual((3, 0, [SYNC]), (info.max_concurrent, info.current_load, list(info.supported_modes)))
            self.assertEqual({"os": "linux", "arch": "arm64"}, dict(info.metadata))
            self.assertEqual(runner.registration.registration_id, info.registration_id)

    def test_work_reaches_a_runner_at_each_way_to_write_an_address(self):
        for address in (":{}", "localhost:{}", "0.0.0.0:{}", "127.0.0.1:{}"):
            self.setUp()
            runner = self.runner(address=address)
            self.submit()
            self.assertEqual("s", runner.next()[0].stage_id)
            self.watch.until_complete()

    def test_a_registration_without_an_address_to_dial_is_refused(self):
        runner = self.runner(register=False)
        for changes in ({"address": ":0"}, {"address": "localhost:0"}, {"address": "nonsense"}, {"address": ""},
                        {"runner_id": ""}, {"runner_type": ""}):
            text = f.refused(grpc.StatusCode.INVALID_ARGUMENT, runner.register, **changes)
            self.assertIn(next(iter(changes)), text)
        self.assertIsNone(self.info(runner))

    def test_a_heartbeat_may_leave_metadata_out(self):
        runner = self.runner(metadata={"zone": "a", "disk": "ssd"})
        again = runner.register(metadata={})
        self.assertEqual(runner.registration.registration_id, again.registration_id)
        info = self.info(runner)
        self.assertEqual({"zone": "a", "disk": "ssd"}, dict(info.metadata))
        self.assertGreaterEqual(info.last_heartbeat.ToNanoseconds(), info.registered_at.ToNanoseconds())
        self.assertGreater(info.expires_at.ToNanoseconds(), info.last_heartbeat.ToNanoseconds())
        runner.register(metadata={"zone": "b"}, max_concurrent=7)
        info = self.info(runner)
        self.assertEqual(({"zone": "b"}, 7), (dict(info.metadata), info.max_concurrent))

    def test_an_unregistered_runner_gets_nothing(self):
        runner = self.runner()
        registration = runner.registration.registration_id
        self.server.call("UnregisterStageRunner", registration_id=registration)
        f.refused(grpc.StatusCode.NOT_FOUND, self.server.call, "UnregisterStageRunner", registration_id=registration)
        self.submit()
        self.assertEqual(f.ATTEMPT_STATE_PENDING, self.stage().attempts[0].state)
        self.assertTrue(runner.received.empty())
        runner.register()
        self.watch.until_complete()

    # ---- sync ----

    def test_a_sync_run_gets_everything_and_its_answer_is_applied(self):
        runner = self.runner(run=lambda request, context: f.success(request, artifact="a.tar", size=17))
        self.submit(args=f.struct(command="make all", env={"CC": "gcc", "V": "1"}), checks=("c1", "c2"))
        request, seconds = runner.next()
        self.assertEqual((self.plan, "s", 1), (request.work_plan_id, request.stage_id, request.attempt_idx))
        self.assertNotEqual("", request.execution_id)
        self.assertEqual({"CC": "gcc", "V": "1"}, dict(request.args["env"]))
        self.assertEqual({"c1", "c2"}, set(request.assigned_check_ids))
        self.assertEqual({"c1": ("build", "c1"), "c2": ("build", "c2")},
                         {options.check_id: (options.kind, options.options["of"]) for options in request.check_options})
        # One deadline, told twice.
        now = self.stage().attempts[0].updated_at
        self.assertAlmostEqual(seconds, request.deadline.seconds - now.seconds, delta=10)
        done = self.watch.until_complete()
        self.assertEqual((2, 1, False), (done.checks_completed, done.stages_completed, done.has_failures))
        nodes = self.server.nodes(self.plan)
        self.assertEqual(f.STAGE_STATE_FINAL, nodes["s"].state)
        self.assertEqual(COMPLETE, nodes["s"].attempts[0].state)
        for check in ("c1", "c2"):
            self.assertEqual(f.CHECK_STATE_FINAL, nodes[check].state)
            self.assertEqual({"artifact": "a.tar", "size": 17.0}, dict(nodes[check].results[0].data))
            self.assertEqual("s", nodes[check].results[0].owner_id)

    def test_a_failed_build_is_a_failure_in_the_check_and_the_attempt_is_complete(self):
        def run(request, context):
            answer = f.success(request, log="error: no such file")
            if request.stage_id == "s":
                answer.check_updates[0].failure.message = "build failed: exit status 2"
            return answer

        runner = self.runner(run=run)
        self.submit(stages=("s", "after"))
        self.assertTrue(self.watch.until_complete().has_failures)
        nodes = self.server.nodes(self.plan)
        self.assertEqual((f.STAGE_STATE_FINAL, 1, COMPLETE),
                         (nodes["s"].state, len(nodes["s"].attempts), nodes["s"].attempts[0].state))
        self.assertFalse(nodes["s"].attempts[0].HasField("failure"))
        self.assertEqual(f.CHECK_STATE_FINAL, nodes["c"].state)
        result = nodes["c"].results[0]
        self.assertEqual("build failed: exit status 2", result.failure.message)
        self.assertEqual({"log": "error: no such file"}, dict(result.data))
        # An edge without a condition only wants the end.
        self.assertEqual(["s", "after"], [runner.next()[0].stage_id for _ in range(2)])

    def test_a_plain_error_of_a_handler_fails_the_stage_without_a_retry(self):
        def run(request, context):
            raise RuntimeError("the disk is full")  # gRPC makes it UNKNOWN

        runner = self.runner(run=run)
        self.submit()
        self.assertTrue(self.watch.until_complete().has_failures)
        nodes = self.server.nodes(self.plan)
        self.assertEqual((1, INCOMPLETE), (len(nodes["s"].attempts), nodes["s"].attempts[0].state))
        self.assertIn("the disk is full", nodes["s"].attempts[0].failure.message)
        self.assertIn("the disk is full", nodes["c"].results[0].failure.message)
        self.assertEqual(1, runner.received.qsize())

    def test_a_failure_in_the_answer_fails_the_stage(self):
        def run(request, context):
            return f.RunResponse(stage_state=f.STAGE_STATE_FINAL, failure=f.Failure(message="cannot check out"))

        self.runner(run=run)
        self.submit()
        self.watch.until_complete()
        self.assertEqual("cannot check out", self.stage().attempts[0].failure.message)
        self.assertEqual(INCOMPLETE, self.stage().attempts[0].state)

    def test_an_answer_without_a_state_is_final_and_its_results_count(self):
        def run(request, context):
            answer = f.success(request, tests=3)
            answer.ClearField("stage_state")
            return answer

        self.runner(run=run)
        self.submit()
        self.assertFalse(self.watch.until_complete().has_failures)
        nodes = self.server.nodes(self.plan)
        self.assertEqual((COMPLETE, 3), (nodes["s"].attempts[0].state, nodes["c"].results[0].data["tests"]))

    def test_an_answer_with_a_state_that_ends_nothing_fails(self):
        states = {"planned": f.STAGE_STATE_PLANNED, "attempting": f.STAGE_STATE_ATTEMPTING}
        self.runner(run=lambda request, context: f.RunResponse(stage_state=states[request.stage_id]))
        self.server.write(self.plan, stages=[f.StageWrite(id=name, runner_type=self.type) for name in states])
        self.assertTrue(self.watch.until_complete().has_failures)
        for name in states:
            for attempt in self.stage(name).attempts:
                self.assertIn("stage_state", attempt.failure.message)

    def test_structs_are_there_even_when_they_are_empty(self):
        runner = self.runner(modes=[SYNC, ASYNC])
        for mode, name in ((SYNC, "s"), (ASYNC, "a")):
            self.server.write(self.plan, checks=[f.CheckWrite(id="c" + name, state=f.CHECK_STATE_PLANNED)],
                              stages=[f.StageWrite(id=name, runner_type=self.type, execution_mode=mode,
                                                   assignments=[f.Assignment(target_check_id="c" + name)])])
            request = runner.next()[0]
            self.assertTrue(request.HasField("args"))
            self.assertTrue(request.check_options[0].HasField("options"))
        nodes = self.server.nodes(self.plan)
        self.assertTrue(nodes["s"].HasField("args"))
        self.assertTrue(nodes["a"].attempts[0].HasField("details"))
        self.assertTrue(nodes["cs"].HasField("options"))

    def test_a_sync_execution_takes_progress_and_no_completion(self):
        go_on, texts = threading.Event(), []

        def run(request, context):
            for i in range(3):
                self.server.call("UpdateStageExecution", execution_id=request.execution_id, message=f"step {i}",
                                 progress_percent=i * 30, details=f.struct(step=i, of=3))
            texts.append(f.refused(grpc.StatusCode.FAILED_PRECONDITION, self.server.call, "CompleteStageExecution",
                                   execution_id=request.execution_id, stage_state=f.STAGE_STATE_FINAL))
            go_on.wait(f.WAIT)
            return f.success(request)

        runner = self.runner(run=run)
        self.addCleanup(go_on.set)
        self.submit()
        runner.next()
        self.assertEqual(f.ATTEMPT_STATE_RUNNING, self.stage().attempts[0].state)
        self.assertEqual(1, self.info(runner).current_load)
        go_on.set()
        self.watch.until_complete()
        self.assertEqual([("step 0", 0), ("step 1", 30), ("step 2", 60)],
                         [(entry.message, entry.details["percent"]) for entry in self.stage().attempts[0].progress])
        self.assertEqual(1, len(texts))
        self.assertEqual(0, self.info(runner).current_load)

    def test_a_runner_never_gets_more_than_it_takes(self):
        lock, now, most = threading.Lock(), [0], [0]
        both = threading.Barrier(2)

        def run(request, context):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            both.wait(f.WAIT)
            with lock:
                now[0] -= 1
            return f.success(request)

        self.runner(run=run, max_concurrent=2)
        self.server.write(self.plan, stages=[f.StageWrite(id=f"s{i}", runner_type=self.type) for i in range(6)])
        self.assertEqual(6, self.watch.until_complete().stages_completed)
        self.assertEqual(2, most[0])

    # ---- answers over a limit ----

    def large(self, request, megabytes):
        return [f.CheckUpdate(check_id=check, finalize=True, result_data=f.struct(log="x" * int(megabytes * (1 << 20))))
                for check in request.assigned_check_ids]

    def test_an_answer_of_four_megabytes_is_kept_and_a_larger_one_fails_once(self):
        sizes = {"kept": 3.99, "field": 4.1, "read": 6, "unread": 33}
        runner = self.runner(run=lambda request, context: f.RunResponse(
            stage_state=f.STAGE_STATE_FINAL, check_updates=self.large(request, sizes[request.stage_id])))
        watch = self.server.watch(self.plan, include_checks=False)
        self.addCleanup(watch.close)
        self.server.write(
            self.plan, checks=[f.CheckWrite(id="c-" + name, state=f.CHECK_STATE_PLANNED) for name in sizes],
            stages=[f.StageWrite(id=name, runner_type=self.type,
                                 assignments=[f.Assignment(target_check_id="c-" + name)]) for name in sizes])
        watch.until_complete()
        self.assertEqual(len(sizes), runner.received.qsize())
        found = self.server.call("QueryNodes", work_plan_id=self.plan, include_stages=True).stages
        attempts = {stage.id: stage.attempts for stage in found}
        self.assertEqual(COMPLETE, attempts["kept"][0].state)
        for name, says in (("field", "check_updates[0].result_data: is"), ("unread", "answer_bytes_max"),
                           ("read", "is in RunResponse.check_updates[0].result_data")):
            self.assertEqual([INCOMPLETE], [attempt.state for attempt in attempts[name]])
            self.assertIn(says, attempts[name][0].failure.message)
        self.server.write(self.plan, stages=[f.StageWrite(id="next", runner_type="nobody")])

    def test_a_completion_over_a_limit_ends_its_attempt(self):
        runner = self.runner(modes=[ASYNC])
        self.submit(mode=ASYNC)
        request = runner.next()[0]
        for _ in range(2):  # the same words again
            self.assertTrue(runner.complete(request, stage_state=f.STAGE_STATE_FINAL,
                                            check_updates=self.large(request, 6)).acknowledged)
        self.assertTrue(self.watch.until_complete().has_failures)
        self.assertEqual(1, len(self.stage().attempts))
        self.assertIn("check_updates[0].result_data", self.stage().attempts[0].failure.message)

    # ---- async ----

    def async_request(self, **fields):
        runner = self.runner(modes=[ASYNC], **fields)
        self.submit(mode=ASYNC, stages=("s", "after"))
        return runner, runner.next()[0]

    def test_an_async_run_is_accepted_reported_and_completed(self):
        runner, request = self.async_request()
        self.assertEqual(self.server.address, request.callback_address)
        self.assertTrue(request.HasField("deadline"))
        self.server.call("UpdateStageExecution", execution_id=request.execution_id, message="cloning",
                         progress_percent=10, details=f.struct(a=1, b=2, c=3))
        attempt = self.stage().attempts[0]
        self.assertEqual((f.ATTEMPT_STATE_RUNNING, "cloning"), (attempt.state, attempt.progress[0].message))
        self.assertTrue(runner.complete(request).acknowledged)
        after = runner.next()[0]
        self.assertEqual("after", after.stage_id)
        runner.complete(after)
        self.assertFalse(self.watch.until_complete().has_failures)
        self.assertEqual(COMPLETE, self.stage().attempts[0].state)

    def test_who_listens_everywhere_tells_runners_an_address_to_call(self):
        for listen in (":0", "0.0.0.0:0"):
            server = f.Server(listen=listen)
            plan = server.plan()
            runner = f.Runner(server, "r", "t", modes=[ASYNC])
            try:
                server.write(plan, stages=[f.StageWrite(id="s", runner_type="t", execution_mode=ASYNC)])
                request = runner.next()[0]
                self.assertEqual("127.0.0.1", request.callback_address.rsplit(":", 1)[0])
                with grpc.insecure_channel(request.callback_address) as channel:
                    complete = channel.unary_unary(f.ORCHESTRATOR + "CompleteStageExecution", f.encode,
                                                   f.CompleteStageExecutionResponse.FromString)
                    done = f.CompleteStageExecutionRequest(execution_id=request.execution_id)
                    self.assertTrue(complete(done, timeout=f.WAIT).acknowledged)
                self.assertEqual(f.STAGE_STATE_FINAL, server.nodes(plan)["s"].state)
            finally:
                runner.close()
                self.assertEqual(0, server.stop())

    def test_the_same_completion_in_other_words_is_acknowledged_and_another_is_not(self):
        runner, request = self.async_request()

        def complete(**changes):
            data = {key: i for i, key in enumerate("abcdefgh")} | {"nested": {"x": 1, "y": {"p": 1, "q": [1, 2]}}}
            data.update(changes)
            update = f.CheckUpdate(check_id="c", state=f.CHECK_STATE_FINAL, finalize=True, result_data=f.struct(**data))
            return runner.complete(request, stage_state=f.STAGE_STATE_FINAL, check_updates=[update],
                                   details=f.struct(host="h1", seconds=12.5, tags=["x"]))

        self.assertTrue(complete().acknowledged)
        before = self.server.nodes(self.plan)
        for _ in range(20):  # map entries in another order each time
            self.assertTrue(complete().acknowledged)
        f.refused(grpc.StatusCode.FAILED_PRECONDITION, complete, a=99)
        f.refused(grpc.StatusCode.FAILED_PRECONDITION, runner.complete, request, stage_state=f.STAGE_STATE_FINAL,
                  failure=f.Failure(message="on second thoughts"))
        self.assertEqual(before["c"], self.server.nodes(self.plan)["c"])
        self.assertEqual(before["s"], self.server.nodes(self.plan)["s"])

    def test_a_callback_may_come_before_the_answer_to_run_async(self):
        def run_async(request, context):
            runner.complete(request)
            return f.RunAsyncResponse(accepted=True)

        runner = self.runner(modes=[ASYNC], run_async=run_async)
        self.submit(mode=ASYNC)
        self.assertFalse(self.watch.until_complete().has_failures)
        self.assertEqual([COMPLETE], [attempt.state for attempt in self.stage().attempts])

    def test_a_failure_in_a_completion_fails_the_stage(self):
        runner, request = self.async_request()
        runner.complete(request, stage_state=f.STAGE_STATE_FINAL, failure=f.Failure(message="out of memory"))
        self.watch.until_check("c", f.CHECK_STATE_FINAL)
        nodes = self.server.nodes(self.plan)
        self.assertEqual((f.STAGE_STATE_FINAL, 1, INCOMPLETE),
                         (nodes["s"].state, len(nodes["s"].attempts), nodes["s"].attempts[0].state))
        self.assertIn("out of memory", nodes["c"].results[0].failure.message)
        self.assertEqual("after", runner.next()[0].stage_id)

    def test_accepted_false_takes_the_work_to_another_attempt(self):
        refused_once = threading.Event()

        def run_async(request, context):
            if not refused_once.is_set():
                refused_once.set()
                return f.RunAsyncResponse(accepted=False)
            return f.RunAsyncResponse(accepted=True)

        runner, first = self.async_request(run_async=run_async)
        second, _ = runner.next()
        self.assertEqual((1, 2), (first.attempt_idx, second.attempt_idx))
        self.assertNotEqual(first.execution_id, second.execution_id)
        # The refused one may not complete any more.
        f.refused(grpc.StatusCode.FAILED_PRECONDITION, runner.complete, first)
        self.assertTrue(runner.complete(second).acknowledged)
        self.watch.until_stage("s", f.STAGE_STATE_FINAL)
        self.assertEqual([INCOMPLETE, COMPLETE], [attempt.state for attempt in self.stage().attempts])

    def test_a_runner_without_run_async_is_no_dead_end(self):
        old = self.runner("a-old", modes=[ASYNC], implements=("Run", "Ping"))
        new = self.runner("b-new", modes=[ASYNC])
        self.submit(mode=ASYNC)
        new.complete(new.next()[0])
        self.watch.until_complete()
        self.assertTrue(old.received.empty())
        self.assertEqual(COMPLETE, self.stage().attempts[-1].state)

    def test_callbacks_for_nothing_are_refused(self):
        for method in ("UpdateStageExecution", "CompleteStageExecution"):
            f.refused(grpc.StatusCode.INVALID_ARGUMENT, self.server.call, method)
            f.refused(grpc.StatusCode.NOT_FOUND, self.server.call, method, execution_id="made-up")
        runner, request = self.async_request()
        f.refused(grpc.StatusCode.NOT_FOUND, self.server.call, "CompleteStageExecution",
                  execution_id=request.execution_id[:-1] + ("0" if request.execution_id[-1] != "0" else "1"),
                  stage_state=f.STAGE_STATE_FINAL)
        f.refused(grpc.StatusCode.INVALID_ARGUMENT, runner.complete, request, stage_state=f.STAGE_STATE_FINAL,
                  check_updates=[f.CheckUpdate(check_id="not-mine", finalize=True)])
        self.assertEqual(f.STAGE_STATE_ATTEMPTING, self.stage().state)

    def test_a_deadline_is_enforced_on_a_runner_that_never_answers(self):
        impatient = f.Server("--limit", "execution_timeout_ms=700", "--limit", "attempts_max=1")
        self.addCleanup(impatient.stop)
        plan, never = impatient.plan(), threading.Event()
        watch = impatient.watch(plan)

        def run(request, context):
            context.add_callback(never.set)  # the call ends for the runner too
            never.wait(f.WAIT)
            return f.success(request)

        runner = f.Runner(impatient, "slow", "slow", run=run)
        self.addCleanup(runner.close)
        impatient.write(plan, stages=[f.StageWrite(id="s", runner_type="slow")])
        request, seconds = runner.next()
        self.assertTrue(0 < seconds <= 0.7, seconds)
        self.assertTrue(watch.until_complete().has_failures)
        self.assertTrue(never.wait(f.WAIT))
        attempt = impatient.nodes(plan)["s"].attempts[0]
        self.assertEqual(INCOMPLETE, attempt.state)
        self.assertGreaterEqual(attempt.updated_at.ToMilliseconds(), request.deadline.ToMilliseconds())


if __name__ == "__main__":
    unittest.main()
