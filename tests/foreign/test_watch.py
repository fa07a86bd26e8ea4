"""WatchWorkPlan for a client that knows the contract only."""
import unittest

import grpc

import foreign as f


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

    def test_a_watcher_that_leaves_disturbs_nobody(self):
        first, second = self.watch(), self.watch()
        second.close()
        self.assertEqual(grpc.StatusCode.CANCELLED, second.until_ended().code())
        self.work()
        first.until_stage("s", f.STAGE_STATE_FINAL)


if __name__ == "__main__":
    unittest.main()
