"""A simulator as mosaik's users write them, run by mosaik's own `start_simulation`.

Arguments: those of `start_simulation`, as HOST:PORT of whom to connect to.
"""

import mosaik_api_v3


class Counter(mosaik_api_v3.Simulator):
    def __init__(self):
        super().__init__(
            {
                "api_version": "3.0",
                "type": "time-based",
                "models": {"Counter": {"public": True, "params": ["start"], "attrs": ["value"]}},
            }
        )
        self.values = {}

    def init(self, sid, time_resolution=1.0):
        return self.meta

    def create(self, num, model, start=0):
        eids = ["c%d" % i for i in range(num)]
        self.values.update(dict.fromkeys(eids, start))
        return [{"eid": eid, "type": model} for eid in eids]

    def step(self, time, inputs, max_advance):
        progress = yield self.mosaik.get_progress()
        for eid in self.values:
            self.values[eid] += progress
        return time + 1

    def get_data(self, outputs):
        if "nobody" in outputs:
            raise LookupError("there is no nobody")
        return {eid: {"value": self.values[eid]} for eid in outputs}


mosaik_api_v3.start_simulation(Counter())
