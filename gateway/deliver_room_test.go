package gateway

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// TestSharesSumUp: what all gateways give a pod is what it runs at once, and
// over many pods each gives as much.
func TestSharesSumUp(t *testing.T) {
	const pods = 400
	for gateways := 1; gateways <= 5; gateways++ {
		for limit := 1; limit <= 7; limit++ {
			of := make([]int, gateways)
			for i := range pods {
				pod := &place{pod: &fleet.Pod{}}
				pod.turn = turn{known: true, hash: hashOf(fmt.Sprintf("e3b0c442-98fc-1c14-9afb-%012d", i))}
				sum := 0
				for rank := range gateways {
					share := exactShare(limit, gateways, rank+pod.turnOf(gateways))
					if share < limit/gateways || share > limit/gateways+1 {
						t.Errorf("%d of %d places for one of %d", share, limit, gateways)
					}
					of[rank] += share
					sum += share
				}
				if sum != limit {
					t.Fatalf("%d gateways give %d to a pod of %d", gateways, sum, limit)
				}
			}
			for rank, n := range of {
				if even := pods * limit / gateways; n < even*4/5 || n > even*6/5 {
					t.Errorf("%d gateways, limit %d: gateway %d has %d of %d", gateways, limit, rank, n, pods*limit)
				}
			}
		}
	}
}

// roomOf is what two gateways over the same pods say.
func roomOf(t *testing.T, f *fleet.Fleet, e *fleet.Entry) (rooms [2]int, started int) {
	t.Helper()
	for rank := range 2 {
		g, _, _ := setup(t, func(c *Config) {
			c.Fleet, c.Share = f, func() (int, int) { return rank, 2 }
		})
		rooms[rank], started, _ = g.Room(e)
	}
	return rooms, started
}

func TestRoom(t *testing.T) {
	const pods = 4
	plainly := func(f *function.Function) { f.Spec.Concurrency = 3 }
	for name, c := range map[string]struct {
		said   fleet.Saying
		change func(*function.Function)
		room   int // of each pod
	}{
		"limit":                  {started(5, 0), nil, 5},
		"limit of one":           {started(1, 0), nil, 1},
		"a pod's queue":          {started(5, 100), nil, 5},
		"full at the last look":  {fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, MaxInflight: 5}, nil, 5},
		"guarded":                {fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, MaxInflight: 5, Guarded: true}, nil, 0},
		"plain":                  {plain, plainly, 3},
		"plain, without a limit": {plain, nil, function.DefaultTarget},
		"without a limit":        {started(0, 0), func(f *function.Function) { f.Spec.Target = 7.5 }, 8},
		"a target of another kind": {started(0, 0), func(f *function.Function) { f.Spec.Type, f.Spec.Target = function.CPU, 900 },
			function.DefaultTarget},
		"starting": {fleet.Saying{Nature: fleet.Watchdog, MaxInflight: 5}, nil, 0},
		"stopping": {fleet.Saying{State: fleet.Stopping, Nature: fleet.Watchdog, MaxInflight: 5, Room: true}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, f, _ := setup(t, nil)
			fn := describe("a", pods, pods)
			if c.change != nil {
				c.change(fn)
			}
			e := put(f, fn, c.said)
			rooms, started := roomOf(t, f, e)
			if want := e.Started(); started != want || rooms[0]+rooms[1] != pods*c.room {
				t.Errorf("room %v on %d, want %d on %d", rooms, started, pods*c.room, want)
			}
		})
	}
}

// TestRoomOfWhatRuns: every call takes room, whatever its kind, and gives it
// back with news.
func TestRoomOfWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 2, 2), started(3, 2))
		l := g.lane(e)
		var counted int
		own := func() *caller { return &caller{l: l, claim: claim{own: true, counted: func() { counted++ }}} }
		all := []*caller{must(t, l), must(t, l)}
		for range 4 {
			c := own()
			if err := c.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		room, started, changed := g.Room(e)
		if room != 0 || started != 2 || counted != 4 {
			t.Fatalf("room %d on %d, %d are counted", room, started, counted)
		}
		// A client's call may wait in a pod, one of a backlog does not.
		all = append(all, must(t, l))
		waits := own()
		got := make(chan error, 1)
		go func() { got <- waits.get(t.Context()) }()
		synctest.Wait()
		if l.own.n != 1 || l.line.n != 0 || counted != 5 {
			t.Fatalf("%d and %d wait, %d are counted", l.own.n, l.line.n, counted)
		}
		settled(t, l)
		all = append(all, must(t, l))   // nor does it keep a client's from that
		for _, i := range []int{0, 5} { // one of each pod
			all[i].done(took)
		}
		synctest.Wait()
		if l.own.n != 1 {
			t.Error("one of a backlog went where a pod's own queue is")
		}
		// Of those who asked nobody missed anything.
		select {
		case <-changed:
		default:
			t.Error("who asked is not told")
		}
		for _, i := range []int{1, 2, 3, 4, 6, 7} {
			all[i].done(took)
		}
		if err := <-got; err != nil || counted != 6 {
			t.Errorf("%v, %d are counted", err, counted)
		}
		waits.done(took)
		if room, _, _ := g.Room(e); room != 6 {
			t.Errorf("room %d at the end", room)
		}
		// Nobody asks any more.
		time.Sleep(10 * time.Second)
		f.Delete(e.Function().Ref)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		empty(t, l)
		if l.room.listening {
			t.Error("somebody still listens for who does not ask")
		}
	})
}

// TestRoomChanges tries everything that makes room, one after the other.
func TestRoomChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gateways atomic.Int64
		gateways.Store(1)
		g, f, _ := setup(t, func(c *Config) { c.Share = func() (int, int) { return 0, int(gateways.Load()) } })
		fn := describe("a", 1, 1)
		f.Put(fn)
		e := f.Get(fn.Ref)
		on := describe("on", 1, 1)
		var room, started int
		var changed <-chan struct{}
		after := func(what string, wantRoom, wantStarted int, change func()) {
			t.Helper()
			room, started, changed = g.Room(e)
			synctest.Wait()
			select {
			case <-changed:
				t.Errorf("before %s: told of nothing", what)
			default:
			}
			change()
			synctest.Wait()
			select {
			case <-changed:
			default:
				t.Errorf("%s: nobody is told", what)
			}
			if room, started, _ = g.Room(e); room != wantRoom || started != wantStarted {
				t.Errorf("%s: room %d on %d, want %d on %d", what, room, started, wantRoom, wantStarted)
			}
		}
		pod := e.Pods()[0]
		said := fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 4}
		after("a pod starts", 4, 1, func() { pod.Learn(said) })
		after("another weir comes", 2, 1, func() { gateways.Store(2); time.Sleep(recheck) })
		after("it goes", 4, 1, func() { gateways.Store(1); time.Sleep(recheck) })
		said.Guarded = true
		after("a guard trips", 0, 1, func() { pod.Learn(said) })
		said.Guarded = false
		after("it clears", 4, 1, func() { pod.Learn(said) })
		// The pod refuses, with one call running, and says then that it has
		// room: it is believed bit by bit.
		c, d := must(t, g.lane(e)), must(t, g.lane(e))
		d.done(refused)
		if room, _, _ = g.Room(e); room != 0 {
			t.Errorf("room %d after a refusal", room)
		}
		after("it has room again", 1, 1, func() { said.Room = false; pod.Learn(said); said.Room = true; pod.Learn(said) })
		after("a step later", 2, 1, func() { time.Sleep(rampStep) })
		c.done(took)
		time.Sleep(time.Second)
		after("another pod is there", 8, 2, func() {
			two := describe("a", 2, 2)
			f.Put(two)
			f.Get(two.Ref).Pods()[1].Learn(said)
		})
		f.Put(on)
		after("it depends on one that has not started", 0, 0, func() {
			g.lane(e).mu.Lock()
			g.lane(e).company.asleep()
			g.lane(e).mu.Unlock()
			two := describe("a", 2, 2)
			two.Spec.DependsOn = []function.Ref{on.Ref}
			f.Put(two)
		})
		after("that has started", 8, 2, func() {
			f.Get(on.Ref).Pods()[0].Learn(said)
			time.Sleep(recheck)
		})
		after("the function is gone", 0, 0, func() { f.Delete(fn.Ref) })
		_, _, changed = g.Room(e)
		synctest.Wait()
		put(f, describe("a", 1, 1), said)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody is told that it is there again")
		}
		e = f.Get(fn.Ref)
		after("it has another limit", 9, 1, func() { said.MaxInflight = 9; e.Pods()[0].Learn(said) })
	})
}

// TestRoomIsForThoseWhoWait: a place that is there, and that one who waits has
// not yet, is nobody else's.
func TestRoomIsForThoseWhoWait(t *testing.T) {
	l, e, first := alone(t, 1)
	one := claim{own: true, ready: make(chan struct{}, 1)}
	if err := l.enter(&one, true); err != nil || !l.queue(&one) {
		t.Fatal("did not have to wait")
	}
	e.Pods()[0].Learn(started(3, 0))
	if room, _, _ := l.g.Room(e); room != 1 {
		t.Errorf("room %d", room)
	}
	l.serve(e)
	l.release(&one, took)
	first.done(took)
}

// TestRoomOfOneThatGoes: who waits for room in a function that is asleep learns
// that it is deleted.
func TestRoomOfOneThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		fn := describe("a", 0, 0)
		f.Put(fn)
		e := f.Get(fn.Ref)
		_, _, changed := g.Room(e)
		time.Sleep(time.Minute)
		f.Delete(fn.Ref)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody is told")
		}
		if g.lane(e).room.listening {
			t.Error("somebody still listens")
		}
	})
}

// TestAllIsOthersShare: a call that waits for places of which none is this
// gateway's goes back at once, and not after the time of a hold.
func TestAllIsOthersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told [2]string
		for rank := range 2 {
			g, f, _ := setup(t, func(c *Config) { c.Share = func() (int, int) { return rank, 2 } })
			fn := describe("a", 1, 0)
			f.Put(fn)
			c := &caller{l: g.lane(f.Get(fn.Ref)), claim: claim{own: true}}
			got := make(chan error, 1)
			start := time.Now()
			go func() { got <- c.get(t.Context()) }()
			synctest.Wait()
			put(f, describe("a", 1, 1), started(1, 0))
			err := <-got
			if took := time.Since(start); took > 0 {
				t.Errorf("it waited for %v", took)
			}
			if err != nil {
				told[rank] = err.(*refusal).reason
			} else {
				c.done(took)
			}
		}
		if told != [2]string{"share", ""} && told != [2]string{"", "share"} {
			t.Errorf("told %q", told)
		}
	})
}

// BenchmarkRoom is what a queue asks after each call, of a function of so many
// pods.
func BenchmarkRoom(b *testing.B) {
	for _, pods := range []int{1, 20, 1000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			g, f, _ := setup(b, func(c *Config) { c.Share = func() (int, int) { return 1, 2 } })
			e := put(f, describe("a", pods, pods), started(5, 0))
			l := g.lane(e)
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = g.Room(e)
				l.mu.Lock()
				l.room.tell()
				l.mu.Unlock()
			}
		})
	}
}
