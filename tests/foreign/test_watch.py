"""WatchWorkPlan for a client that knows the contract only."""
import os
import unittest

import grpc

import foreign as f


def added(event, number):
    """What an event says in a field that its reader does not know."""
    return next((field.data for field in event.UnknownFields() if field.field_number == number), 0)


AFTER_SEQUENCE = SEQUENCE = 100
INCLUDE_CURRENT = MORE_CURRENT = 101


class Watching(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = f.Server()
        cls.runner = f.Runner(cls.server, "r", "test", address="localhost:{}")

    @classmethod
    def tearDownClass(cls):
        cls.runner.close()
        assert cls.server.stop() == 0

    def setUp(self):
        self.plan = self.server.plan()

    def watch(self, **fields):
        """A watch that is open: what happens from then on is told. The server's initial metadata says so."""
        watch = self.server.watch(self.plan, **fields)
        self.addCleanup(watch.close)
        watch.stream.initial_metadata()
        return watch

    def work(self):
        self.server.write(
            self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)],
            stages=[f.StageWrite(id="s", runner_type="test",
                                 assignments=[f.Assignment(target_check_id="c", goal_state=f.CHECK_STATE_FINAL)])])

    def test_every_change_of_state_comes_in_order_with_its_node(self):
        watch = self.watch()
        self.work()
        watch.until_stage("s", f.STAGE_STATE_FINAL)
        watch.until_check("c", f.CHECK_STATE_FINAL)
        stages = [event.stage_event for event in watch.events if event.stage_event.stage_id == "s"]
        self.assertEqual([(0, f.STAGE_STATE_PLANNED), (f.STAGE_STATE_PLANNED, f.STAGE_STATE_ATTEMPTING),
                          (f.STAGE_STATE_ATTEMPTING, f.STAGE_STATE_FINAL)],
                         [(event.old_state, event.new_state) for event in stages])
        for event in stages:
            self.assertEqual(("s", event.new_state), (event.stage.id, event.stage.state))
        checks = [event.check_event for event in watch.events if event.check_event.check_id == "c"]
        self.assertEqual([f.CHECK_STATE_PLANNED, f.CHECK_STATE_WAITING, f.CHECK_STATE_FINAL],
                         [event.new_state for event in checks])
        times = [event.timestamp.ToNanoseconds() for event in watch.events]
        self.assertEqual(sorted(times), times)

    def test_without_asking_nobody_is_told_of_attempts_and_progress(self):
        watch = self.watch()
        self.work()
        watch.until_stage("s", f.STAGE_STATE_FINAL)
        self.assertTrue(all(event.stage_event.old_state != event.stage_event.new_state
                            for event in watch.events if event.HasField("stage_event")))

    def test_filters_by_kind_id_and_state(self):
        watch = self.watch(include_stages=False, check_state_filter=[f.CHECK_STATE_FINAL, f.CHECK_STATE_PLANNING])
        only = self.watch(check_id_filter=["c"], include_stages=False)
        self.work()
        watch.until_check("c", f.CHECK_STATE_FINAL)
        self.assertEqual([], [event for event in watch.events if event.HasField("stage_event")])
        self.assertEqual([f.CHECK_STATE_FINAL],
                         [event.check_event.new_state for event in watch.events if event.check_event.check_id == "c"])
        self.assertTrue(all(event.check_event.check_id == "c" for event in only.events if event.HasField("check_event")))

    def test_the_end_is_told_to_a_watcher_that_wants_nothing_else_and_the_stream_goes_on(self):
        all_of_it = self.watch()
        end = self.watch(include_checks=False, include_stages=False)
        self.server.write(self.plan, checks=[f.CheckWrite(id="done", state=f.CHECK_STATE_FINAL)])
        all_of_it.until_complete()
        end.until_complete()
        self.assertEqual(1, len(end.events))
        self.work()
        count = len(end.events)
        with end.changed:
            self.assertTrue(end.changed.wait_for(lambda: len(end.events) > count, f.WAIT))
        self.assertEqual(1, end.events[-1].completed_event.stages_completed)
        self.assertFalse(end.events[-1].completed_event.has_failures)
        self.assertIsNone(end.error)

    def open(self, fields=b"", channel=None, **known):
        """The bare stream of a watch, read by nobody yet, with fields of our own."""
        known = {"include_checks": True, "include_stages": True, **known}
        request = f.WatchWorkPlanRequest(work_plan_id=self.plan, **known).SerializeToString() + fields
        stub = (channel or self.server.channel).unary_stream(f.ORCHESTRATOR + "WatchWorkPlan",
                                                response_deserializer=f.WorkPlanEvent.FromString)
        stream = stub(request)
        self.addCleanup(stream.cancel)
        stream.initial_metadata()
        return stream

    def test_nodes_come_whole_at_every_change(self):
        watch = self.watch()
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED,
                                                          options=f.struct(kept="yes"))])
        for i in range(20):
            self.server.write(self.plan, checks=[f.CheckWrite(id="c", result=f.CheckResultWrite(
                owner_type="me", owner_id=str(i), data=f.struct(n=i), finalize=i == 19))])
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_FINAL)])
        watch.until_check("c", f.CHECK_STATE_FINAL)
        checks = [event.check_event.check for event in watch.events if event.check_event.check_id == "c"]
        self.assertEqual(20, len(checks[-1].results))
        for check in checks:
            self.assertEqual("yes", check.options["kept"])
            self.assertEqual([str(i) for i in range(len(check.results))], [r.owner_id for r in check.results])

    def test_a_reader_that_pauses_is_told_of_every_move_and_holds_no_memory(self):
        stream = self.open()
        self.server.write(self.plan, checks=[f.CheckWrite(id="c", state=f.CHECK_STATE_PLANNED)])
        for i in range(150):  # the check grows to 3 MB: whole, each time, 220 MB wait
            self.server.write(self.plan, checks=[
                f.CheckWrite(id="c", result=f.CheckResultWrite(owner_type="me", owner_id=str(i),
                                                               data=f.struct(n="x" * 20000))),
                f.CheckWrite(id=f"m{i // 10}", state=f.CHECK_STATE_FINAL if i % 10 == 9 else f.CHECK_STATE_PLANNING)])
        moves, last = {}, None
        for event in stream:
            part = event.check_event
            if part.check_id == "c":
                last = part.check
            elif part.old_state != part.new_state:
                moves.setdefault(part.check_id, []).append(part.new_state)
            if last and len(last.results) == 150 and len(moves) == 15:
                break
        for states in moves.values():
            self.assertEqual(f.CHECK_STATE_FINAL, states[-1])
        if not os.environ.get("TURBOCI_SANITIZED"):
            self.assertLess(self.server.memory_peak_mb(), 300)

    def test_a_view_of_the_plan_that_was_cut_goes_on_where_any_of_its_events_says(self):
        self.server.write(self.plan, checks=[f.CheckWrite(id=f"c{i}", state=f.CHECK_STATE_PLANNED) for i in range(5)])
        events = []
        for event in self.open(f.added_field(INCLUDE_CURRENT, 1)):
            events.append(event)
            if not added(event, MORE_CURRENT):
                break
        self.assertEqual([f"c{i}" for i in range(5)], [event.check_event.check_id for event in events])
        for cut in range(1, 5):
            wanted = {f"c{i}" for i in range(cut, 5)}
            for event in self.open(f.added_field(AFTER_SEQUENCE, added(events[cut - 1], SEQUENCE))):
                wanted.discard(event.check_event.check_id)
                if not wanted:
                    break

    def test_many_who_start_and_read_nothing_hold_no_memory(self):
        for i in range(20):
            self.server.write(self.plan, checks=[f.CheckWrite(id=f"c{i}", options=f.struct(d="z" * 900000))])
        # A channel that takes little before it is read. 220 MB, were it one message for each stream.
        narrow = grpc.insecure_channel(self.server.address, options=[
            ("grpc.http2.lookahead_bytes", 16384), ("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(narrow.close)
        streams = [self.open(f.added_field(INCLUDE_CURRENT, 1), narrow) for _ in range(250)]
        stream, seen, wanted = streams[-1], set(), f.added_field(INCLUDE_CURRENT, 1)
        while len(seen) < 20:
            try:
                for event in stream:
                    seen.add(event.check_event.check_id)
                    wanted = f.added_field(AFTER_SEQUENCE, added(event, SEQUENCE))
                    if len(seen) == 20:
                        break
            except grpc.RpcError as error:  # to make room those who have taken nothing for longest are ended
                self.assertEqual(grpc.StatusCode.RESOURCE_EXHAUSTED, error.code())
                stream = self.open(wanted)
        if not os.environ.get("TURBOCI_SANITIZED"):
            self.assertLess(self.server.memory_peak_mb(), 300)

    def test_a_watcher_that_leaves_disturbs_nobody(self):
        first, second = self.watch(), self.watch()
        second.close()
        self.assertEqual(grpc.StatusCode.CANCELLED, second.until_ended().code())
        self.work()
        first.until_stage("s", f.STAGE_STATE_FINAL)


if __name__ == "__main__":
    unittest.main()
