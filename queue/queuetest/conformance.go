package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// TestStore says whether a Store does as queue.Store has it. open makes an
// empty one for each part; short of it are a lease of seconds and a window of
// at least one.
func TestStore(t *testing.T, open func(t *testing.T) queue.Store) {
	for _, part := range []struct {
		name string
		test func(*check)
	}{
		{"PutAndGet", putAndGet},
		{"Order", order},
		{"Keys", keys},
		{"ConcurrentKeys", concurrentKeys},
		{"Remove", remove},
		{"FetchWaits", fetchWaits},
		{"FetchIsShared", fetchIsShared},
		{"Ack", ack},
		{"Retry", retry},
		{"RetryAtOnce", retryAtOnce},
		{"Lease", lease},
		{"Extend", extend},
		{"RemovedIsNotDelivered", removedIsNotDelivered},
		{"Oldest", oldest},
		{"Backlogs", backlogs},
		{"Records", records},
		{"RecordsEnd", recordsEnd},
		{"Letters", letters},
		{"News", news},
		{"Sizes", sizes},
		{"Ended", ended},
	} {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			part.test(&check{t, open(t), ctx})
		})
	}
}

// most is how long anything that is to happen may take on a busy machine.
const most = 20 * time.Second

var (
	laneA = queue.LaneOf(function.Ref{Name: "a", Namespace: "ns"})
	laneB = queue.LaneOf(function.Ref{Name: "b-1", Namespace: "other"})
)

type check struct {
	*testing.T
	queue.Store
	ctx context.Context
}

func (c *check) ok(what string, err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

func (c *check) not(what string, err, want error) {
	c.Helper()
	if !errors.Is(err, want) {
		c.Errorf("%s: %v, expected %v", what, err, want)
	}
}

func (c *check) put(lane queue.Lane, data string) uint64 {
	c.Helper()
	seq, duplicate, err := c.Put(c.ctx, lane, []byte(data), "")
	c.ok("Put", err)
	if duplicate || seq == 0 {
		c.Fatalf("Put: place %d, duplicate %v", seq, duplicate)
	}
	return seq
}

// fetch gets exactly n, in as many askings as it takes.
func (c *check) fetch(lane queue.Lane, n int) (got []queue.Delivery) {
	c.Helper()
	for start := time.Now(); len(got) < n; {
		more, err := c.Fetch(c.ctx, lane, n-len(got), time.Second)
		c.ok("Fetch", err)
		got = append(got, more...)
		if time.Since(start) > most {
			c.Fatalf("Fetch has %d items of %d", len(got), n)
		}
	}
	if len(got) > n {
		c.Fatalf("Fetch has %d items, %d were asked for", len(got), n)
	}
	return got
}

func (c *check) none(what string, lane queue.Lane, wait time.Duration) {
	c.Helper()
	got, err := c.Fetch(c.ctx, lane, 10, wait)
	c.ok("Fetch", err)
	for _, d := range got {
		c.Errorf("%s: there is %q at %d, for the %d. time", what, d.Item().Data, d.Item().Seq, d.Times())
	}
}

func (c *check) until(what string, cond func() bool) {
	c.Helper()
	for start := time.Now(); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > most {
			c.Fatalf("not in %v: %s", most, what)
		}
	}
}

func id(n byte, seq uint64) queue.ID { return queue.ID{Nonce: queue.Nonce{0: n, 15: ^n}, Seq: seq} }

func putAndGet(c *check) {
	start := time.Now().Add(-time.Second)
	data := []byte("body\x00\xff\r\n")
	seq, _, err := c.Put(c.ctx, laneA, data, "")
	c.ok("Put", err)
	data[0] = 'X' // it is the caller's again
	it, err := c.Get(c.ctx, seq)
	c.ok("Get", err)
	if it.Lane != laneA || it.Seq != seq || string(it.Data) != "body\x00\xff\r\n" || it.Stored.Before(start) || it.Stored.After(time.Now().Add(time.Second)) {
		c.Errorf("it is %+v", it)
	}
	for _, seq := range []uint64{seq + 1, 0, 1 << 60} {
		_, err = c.Get(c.ctx, seq)
		c.not(fmt.Sprintf("Get of %d", seq), err, queue.ErrNotFound)
	}
	empty := c.put(queue.Callbacks, "")
	if it, err = c.Get(c.ctx, empty); err != nil || it.Lane != queue.Callbacks || len(it.Data) != 0 {
		c.Errorf("an empty one is %+v, %v", it, err)
	}
}

func order(c *check) {
	var last uint64
	for i := range 50 {
		seq := c.put([]queue.Lane{laneA, laneB}[i%2], fmt.Sprint(i))
		if seq <= last {
			c.Fatalf("place %d comes after %d", seq, last)
		}
		last = seq
	}
	for i, lane := range []queue.Lane{laneA, laneB} {
		for j, d := range c.fetch(lane, 25) {
			if it := d.Item(); string(it.Data) != fmt.Sprint(2*j+i) || it.Lane != lane || d.Times() != 1 {
				c.Errorf("item %d of lane %s is %q, for the %d. time", j, lane, it.Data, d.Times())
			}
		}
	}
}

func keys(c *check) {
	first, duplicate, err := c.Put(c.ctx, laneA, []byte("1"), "key")
	if err != nil || duplicate {
		c.Fatalf("Put: %v, %v", duplicate, err)
	}
	for range 3 {
		seq, duplicate, err := c.Put(c.ctx, laneA, []byte("other"), "key")
		if err != nil || !duplicate || seq != first {
			c.Errorf("a second Put is at %d, %v, %v, expected %d, true", seq, duplicate, err, first)
		}
	}
	seq, duplicate, err := c.Put(c.ctx, laneB, []byte("2"), "key")
	if err != nil || duplicate || seq == first {
		c.Errorf("in another lane it is at %d, %v, %v", seq, duplicate, err)
	}
	if seq, duplicate, err = c.Put(c.ctx, laneA, []byte("3"), "Key"); err != nil || duplicate || seq == first {
		c.Errorf("with another key it is at %d, %v, %v", seq, duplicate, err)
	}
	// Also after it was processed.
	c.ok("Ack", c.fetch(laneA, 1)[0].Ack(c.ctx))
	if seq, duplicate, err = c.Put(c.ctx, laneA, []byte("4"), "key"); err != nil || !duplicate || seq != first {
		c.Errorf("after it was processed it is at %d, %v, %v, expected %d, true", seq, duplicate, err, first)
	}
}

func concurrentKeys(c *check) {
	const n = 16
	var mu sync.Mutex
	var all sync.WaitGroup
	seqs, firsts := map[uint64]bool{}, 0
	for range n {
		all.Go(func() {
			seq, duplicate, err := c.Put(c.ctx, laneA, []byte("x"), "one")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				c.Error(err)
			}
			seqs[seq] = true
			if !duplicate {
				firsts++
			}
		})
	}
	all.Wait()
	if len(seqs) != 1 || firsts != 1 {
		c.Errorf("of %d Puts with one key %d were the first, at places %v", n, firsts, seqs)
	}
}

func remove(c *check) {
	a, b := c.put(laneA, "a"), c.put(laneA, "b")
	c.ok("Remove", c.Remove(c.ctx, a))
	c.not("Remove again", c.Remove(c.ctx, a), queue.ErrNotFound)
	_, err := c.Get(c.ctx, a)
	c.not("Get", err, queue.ErrNotFound)
	if d := c.fetch(laneA, 1)[0]; d.Item().Seq != b {
		c.Errorf("the next is at %d, expected %d", d.Item().Seq, b)
	}
}

func fetchWaits(c *check) {
	start := time.Now()
	c.none("an empty lane", laneA, 300*time.Millisecond)
	if took := time.Since(start); took < 250*time.Millisecond {
		c.Errorf("it waited %v for the first, expected 300ms", took)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		_, _, _ = c.Put(c.ctx, laneA, []byte("x"), "")
	}()
	start = time.Now()
	got, err := c.Fetch(c.ctx, laneA, 5, most)
	c.ok("Fetch", err)
	if len(got) != 1 || time.Since(start) > most/2 {
		c.Errorf("it has %d items after %v", len(got), time.Since(start))
	}
	ctx, cancel := context.WithTimeout(c.ctx, 100*time.Millisecond)
	defer cancel()
	start = time.Now()
	if got, _ := c.Fetch(ctx, laneA, 5, most); len(got) > 0 || time.Since(start) > most/2 {
		c.Errorf("after its context has ended it has %d items, %v later", len(got), time.Since(start))
	}
}
