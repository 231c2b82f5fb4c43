package guard

import (
	"flag"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// model is a handler whose requests take memory, its clients, and the guard's
// lookahead, in steps of a millisecond.
type model struct {
	limit, base float64
	// takes is what a request has taken at age, until it ends at long.
	takes    func(r *request, age time.Duration) float64
	long     func() time.Duration
	size     func() float64
	pause    time.Duration          // of a client that was refused
	keeps    func(m *model) float64 // more that is in use, such as a heap
	rest     time.Duration          // of a client that was served, all together
	restless bool                   // each client rests for a while of its own
	ahead    lookahead
	random   *rand.Rand

	now      time.Time
	running  []*request
	finished uint64
	idle     []time.Time // clients, by when they come back
	held     []time.Time // requests that wait for a verdict, by when they give up

	most     int
	learning bool
	since    time.Time
	next     time.Time
	peak     float64
	area     float64
	served   int
	refused  int
	began    time.Time
	trips    int
}

type request struct {
	began time.Time
	size  float64
	long  time.Duration
}

const mib = 1 << 20

var seeds = flag.Uint64("seeds", 1, "simulations of each kind")

func newModel(limit, base float64, clients int, seed uint64) *model {
	m := &model{limit: limit, base: base, pause: 10 * time.Millisecond,
		ahead: lookahead{prior: priorMemory, least: leastMemory}, now: time.Unix(1000, 0)}
	m.random = rand.New(rand.NewPCG(1, seed))
	m.takes = func(r *request, age time.Duration) float64 { return r.size }
	m.size = func() float64 { return 50 * mib }
	m.long = func() time.Duration { return 500 * time.Millisecond }
	m.began = m.now
	m.sample()
	for range clients {
		m.idle = append(m.idle, m.now)
	}
	return m
}

func (m *model) used() float64 {
	u := m.base
	for _, r := range m.running {
		u += m.takes(r, m.now.Sub(r.began))
	}
	if m.keeps != nil {
		u += m.keeps(m)
	}
	return u
}

func (m *model) sample() {
	used, mark := m.used(), 0.9*m.limit
	if used >= mark && m.since.IsZero() {
		m.since = m.now
		m.trips++
	} else if !m.since.IsZero() && used <= mark*8/9 && m.now.Sub(m.since) >= time.Second {
		m.since = time.Time{}
	}
	n := len(m.running)
	m.most, m.learning = m.ahead.step(moment{at: m.now, used: used, room: mark - used,
		Load: Load{n, m.finished}, idle: n == 0})
	if !m.since.IsZero() {
		m.most, m.learning = 1, false
	}
	pause := workPause
	if n == 0 {
		pause = calmPause
	}
	if len(m.held) > 0 {
		pause = askedPause
	}
	m.next = m.now.Add(pause/2 + time.Duration(m.random.Int64N(int64(pause))))
}

func (m *model) admit() bool {
	if len(m.running) >= m.most {
		return false
	}
	m.running = append(m.running, &request{m.now, m.size(), m.long()})
	return true
}

func (m *model) run(d time.Duration) {
	for end := m.now.Add(d); m.now.Before(end); m.now = m.now.Add(time.Millisecond) {
		still := m.running[:0:0]
		for _, r := range m.running {
			if m.now.Sub(r.began) >= r.long {
				m.finished++
				m.served++
				back := m.now
				if m.rest > 0 {
					back = m.now.Truncate(m.rest).Add(m.rest)
				}
				if m.restless {
					back = m.now.Add(time.Duration(m.random.ExpFloat64() * float64(300*time.Millisecond)))
				}
				m.idle = append(m.idle, back)
			} else {
				still = append(still, r)
			}
		}
		m.running = still
		if !m.now.Before(m.next) {
			m.sample()
			held := m.held[:0:0]
			for _, until := range m.held {
				switch {
				case m.admit():
				case m.learning && m.now.Before(until):
					held = append(held, until)
				default:
					m.refused++
					m.idle = append(m.idle, m.now.Add(m.pause))
				}
			}
			m.held = held
		}
		idle := m.idle[:0:0]
		for _, at := range m.idle {
			switch {
			case m.now.Before(at):
				idle = append(idle, at)
			case m.admit():
			case m.learning:
				if len(m.held) == 0 {
					m.next = m.now.Add(askedPause)
				}
				m.held = append(m.held, m.now.Add(2*time.Second))
			default:
				m.refused++
				idle = append(idle, m.now.Add(m.pause))
			}
		}
		m.idle = idle
		m.peak = max(m.peak, m.used())
		m.area += float64(len(m.running)) * time.Millisecond.Seconds()
	}
}

func (m *model) mean() float64 { return m.area / m.now.Sub(m.began).Seconds() }

func TestLookaheadKeepsBelowTheLimit(t *testing.T) {
	ramp := func(r *request, age time.Duration) float64 {
		return r.size * min(1, age.Seconds()/r.long.Seconds())
	}
	for name, c := range map[string]struct {
		set  func(m *model)
		mean float64
	}{
		"50 MiB at once for half a second": {nil, 2},
		"over 200 ms": {func(m *model) {
			m.takes = func(r *request, age time.Duration) float64 { return r.size * min(1, age.Seconds()/0.2) }
		}, 2},
		"growing for half a second": {func(m *model) { m.takes = ramp }, 2},
		"growing for two seconds": {func(m *model) {
			m.takes, m.long = ramp, func() time.Duration { return 2 * time.Second }
		}, 2},
		"after a quiet second, then growing": {func(m *model) {
			m.long = func() time.Duration { return 400 * time.Millisecond }
			m.takes = func(r *request, age time.Duration) float64 {
				return r.size * max(0, min(1, (age.Seconds()-0.3)/0.05))
			}
		}, 2},
		"10 or 40 MiB": {func(m *model) {
			n := 0
			m.long = func() time.Duration { return time.Duration(300+m.random.IntN(400)) * time.Millisecond }
			m.size = func() float64 {
				// That the first few are all small is not to be foreseen.
				if n++; n == 1 || n > 3 && m.random.IntN(2) == 0 {
					return 40 * mib
				}
				return 10 * mib
			}
		}, 2},
		"20 ms each": {func(m *model) {
			m.long = func() time.Duration { return 20 * time.Millisecond }
		}, 2},
		"of any length": {func(m *model) {
			m.long = func() time.Duration { return time.Duration(1+m.random.IntN(900)) * time.Millisecond }
		}, 2},
		"bursts after idle seconds": {func(m *model) {
			m.pause = 3 * time.Second
		}, 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range *seeds {
				m := newModel(256*mib, 22*mib, 100, seed)
				if c.set != nil {
					c.set(m)
				}
				m.run(12 * time.Second)
				t.Logf("seed %d: peak %.0f MiB, mean in flight %.2f, served %d, refused %d, trips %d, one takes %.1f MiB",
					seed, m.peak/mib, m.mean(), m.served, m.refused, m.trips, m.ahead.seen.demand(m.ahead.base, leastMemory).share/mib)
				if m.peak > m.limit {
					t.Errorf("seed %d: %.0f MiB in use at the peak, the limit is %.0f", seed, m.peak/mib, m.limit/mib)
				}
				if m.mean() < c.mean {
					t.Errorf("seed %d: %.2f in flight on average, want at least %.1f", seed, m.mean(), c.mean)
				}
			}
		})
	}
}

// Work that needs no memory to speak of is not refused for memory.
func TestLookaheadLetsLightWorkPass(t *testing.T) {
	for name, c := range map[string]struct {
		clients int
		set     func(m *model)
		refused float64 // share
	}{
		"20 ms":   {50, func(m *model) { m.long = func() time.Duration { return 20 * time.Millisecond } }, 0},
		"200 ms":  {50, func(m *model) { m.long = func() time.Duration { return 200 * time.Millisecond } }, 0.02},
		"2 s":     {50, func(m *model) { m.long = func() time.Duration { return 2 * time.Second } }, 0.5},
		"forever": {50, func(m *model) { m.long = func() time.Duration { return time.Hour } }, 1},
		"garbage, in bursts": {30, func(m *model) {
			m.long = func() time.Duration { return 40 * time.Millisecond }
			m.pause, m.rest = 500*time.Millisecond, time.Second
			m.limit, m.base = 256*mib, 60*mib
			m.keeps = func(m *model) float64 { return float64(m.finished%37) * 2 * mib }
		}, 0.05},
		"garbage, now and then": {12, func(m *model) {
			m.long = func() time.Duration { return 40 * time.Millisecond }
			m.restless = true
			m.limit, m.base = 256*mib, 60*mib
			m.keeps = func(m *model) float64 { return float64(m.finished%37) * 2 * mib }
		}, 0.05},
		"a heap that grows under load and stays": {40, func(m *model) {
			m.long = func() time.Duration { return 40 * time.Millisecond }
			m.keeps = func(m *model) float64 { return min(60*mib, float64(m.finished)*0.1*mib) }
		}, 0.05},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(128*mib, 30*mib, c.clients, 1)
			m.size = func() float64 { return 0.1 * mib }
			m.pause = 100 * time.Millisecond
			c.set(m)
			m.run(10 * time.Second)
			early := m.refused
			m.run(8 * time.Second)
			t.Logf("peak %.0f MiB, mean in flight %.2f, served %d, refused %d, later %d", m.peak/mib, m.mean(), m.served, early, m.refused-early)
			if later := m.refused - early; later > m.served/30 {
				t.Errorf("%d refused after 10 s, of %d", later, m.served)
			}
			if share := float64(early) / float64(early+m.served+len(m.running)); share > c.refused {
				t.Errorf("%.0f %% refused", 100*share)
			}
			if len(m.running) < c.clients/2 && name == "forever" {
				t.Errorf("%d of %d run", len(m.running), c.clients)
			}
		})
	}
}

func TestLookaheadNeverBlocksTheOnlyRequest(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	a := lookahead{prior: priorMemory, least: leastMemory}
	now := time.Unix(0, 0)
	for range 10_000 {
		now = now.Add(time.Duration(random.IntN(200)) * time.Millisecond)
		n := random.IntN(20)
		used := math.Exp(random.Float64() * 30)
		most, _ := a.step(moment{at: now, used: used, room: (random.Float64() - 0.5) * used,
			Load: Load{n, uint64(random.IntN(1000))}, idle: n == 0})
		if most < 1 || most > unbounded {
			t.Fatalf("most is %d", most)
		}
	}
}
