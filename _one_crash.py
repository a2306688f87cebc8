from tests.crash.lane import homes
from tests.crash.scenarios import HeldErasing
if __name__ == "__main__":
    (r,) = homes((HeldErasing,), jobs=1, pairs=4, seed=4, every=False)
    print(r.scenario, r.points, r.ran, r.recovered, r.pairs)
    for v in r.violations[:6]: print(v)
