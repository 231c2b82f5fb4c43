package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

func fetchIsShared(c *check) {
	const n = 200
	for i := range n {
		c.put(laneA, fmt.Sprint(i))
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[uint64]int{}
	for range 4 {
		all.Go(func() {
			for {
				got, err := c.Fetch(c.ctx, laneA, 7, 200*time.Millisecond)
				if err != nil {
					c.Error(err)
					return
				}
				if len(got) > 7 {
					c.Errorf("%d items, 7 were asked for", len(got))
				}
				mu.Lock()
				for _, d := range got {
					seen[d.Item().Seq]++
				}
				done := len(seen) == n
				mu.Unlock()
				for _, d := range got {
					if err := d.Ack(c.ctx); err != nil {
						c.Error(err)
					}
				}
				if done {
					return
				}
			}
		})
	}
	all.Wait()
	for seq, times := range seen {
		if times != 1 {
			c.Errorf("the item at %d was delivered %d times", seq, times)
		}
	}
}

func ack(c *check) {
	seq := c.put(laneA, "x")
	d := c.fetch(laneA, 1)[0]
	if _, err := c.Get(c.ctx, seq); err != nil {
		c.Errorf("while it is delivered: Get: %v", err)
	}
	c.ok("Ack", d.Ack(c.ctx))
	_, err := c.Get(c.ctx, seq)
	c.not("Get after Ack", err, queue.ErrNotFound)
	c.not("Remove after Ack", c.Remove(c.ctx, seq), queue.ErrNotFound)
	c.none("after Ack", laneA, c.Lease()+500*time.Millisecond)
}

func retry(c *check) {
	c.put(laneA, "first")
	c.put(laneA, "second")
	d := c.fetch(laneA, 1)[0]
	start := time.Now()
	delay := c.Lease() + time.Second // it is not the lease that brings it back
	c.ok("Retry", d.Retry(c.ctx, delay))
	if other := c.fetch(laneA, 1)[0]; string(other.Item().Data) != "second" {
		c.Errorf("the next is %q", other.Item().Data)
	} else {
		c.ok("Ack", other.Ack(c.ctx))
	}
	c.until("the backlog has it as delivered", func() bool {
		all, err := c.Backlogs(c.ctx)
		return err == nil && all[laneA] == queue.Backlog{Items: 1, Delivered: 1}
	})
	again := c.fetch(laneA, 1)[0]
	if took := time.Since(start); took < delay-50*time.Millisecond {
		c.Errorf("it came back after %v, expected %v", took, delay)
	}
	if again.Times() != 2 || string(again.Item().Data) != "first" || again.Item().Seq != d.Item().Seq {
		c.Errorf("it is %q at %d, for the %d. time", again.Item().Data, again.Item().Seq, again.Times())
	}
}

func retryAtOnce(c *check) {
	c.put(laneA, "x")
	for times := 1; times <= 3; times++ {
		start := time.Now()
		d := c.fetch(laneA, 1)[0]
		if d.Times() != times {
			c.Errorf("it was delivered %d times, expected %d", d.Times(), times)
		}
		if took := time.Since(start); took >= c.Lease() {
			c.Errorf("it came back after %v", took)
		}
		c.ok("Retry", d.Retry(c.ctx, 0))
	}
}

func lease(c *check) {
	c.put(laneA, "x")
	start := time.Now()
	d := c.fetch(laneA, 1)[0]
	again := c.fetch(laneA, 1)[0]
	if took := time.Since(start); took < c.Lease()*9/10 {
		c.Errorf("it was delivered again after %v, the lease is %v", took, c.Lease())
	}
	if again.Times() != 2 || again.Item().Seq != d.Item().Seq {
		c.Errorf("it is at %d, for the %d. time", again.Item().Seq, again.Times())
	}
	c.ok("Ack", again.Ack(c.ctx))
	// Who had it before may say so late.
	c.ok("Ack of who had it before", d.Ack(c.ctx))
}

func extend(c *check) {
	c.put(laneA, "x")
	d := c.fetch(laneA, 1)[0]
	for start := time.Now(); time.Since(start) < 2*c.Lease(); {
		c.none("extended", laneA, c.Lease()/3)
		c.ok("Extend", d.Extend())
	}
	c.ok("Ack", d.Ack(c.ctx))
}

func removedIsNotDelivered(c *check) {
	seq := c.put(laneA, "x")
	d := c.fetch(laneA, 1)[0]
	c.ok("Remove", c.Remove(c.ctx, seq))
	// Whatever is said of it then does no harm.
	_ = d.Extend()
	_ = d.Retry(c.ctx, 0)
	c.none("removed", laneA, c.Lease()+500*time.Millisecond)
	if err := d.Ack(c.ctx); err != nil && !errors.Is(err, queue.ErrNotFound) {
		c.Errorf("Ack: %v", err)
	}
	c.put(laneA, "y")
	if d := c.fetch(laneA, 1)[0]; string(d.Item().Data) != "y" {
		c.Errorf("the next is %q", d.Item().Data)
	}
}

func oldest(c *check) {
	_, err := c.Oldest(c.ctx, laneA)
	c.not("Oldest of an empty lane", err, queue.ErrNotFound)
	c.put(laneB, "b")
	first, second := c.put(laneA, "1"), c.put(laneA, "2")
	want := func(seq uint64) {
		c.Helper()
		it, err := c.Oldest(c.ctx, laneA)
		if err != nil || it.Seq != seq || it.Lane != laneA {
			c.Errorf("the oldest is at %d, %v, expected %d", it.Seq, err, seq)
		}
	}
	want(first)
	d := c.fetch(laneA, 1)[0]
	want(first)
	c.ok("Ack", d.Ack(c.ctx))
	want(second)
}

func backlogs(c *check) {
	want := func(what string, want map[queue.Lane]queue.Backlog) {
		c.Helper()
		var got map[queue.Lane]queue.Backlog
		c.until(what, func() bool {
			all, err := c.Backlogs(c.ctx)
			c.ok("Backlogs", err)
			got = all
			equal := len(all) == len(want)
			for lane, b := range want {
				equal = equal && all[lane] == b
			}
			return equal
		})
		_ = got
	}
	want("nothing", nil)
	for range 5 {
		c.put(laneA, "x")
		c.put(queue.Callbacks, "y")
	}
	c.put(laneB, "z")
	want("three lanes", map[queue.Lane]queue.Backlog{laneA: {Items: 5}, queue.Callbacks: {Items: 5}, laneB: {Items: 1}})
	got := c.fetch(laneA, 3)
	want("some delivered", map[queue.Lane]queue.Backlog{laneA: {Items: 5, Delivered: 3}, queue.Callbacks: {Items: 5, Delivered: 0}, laneB: {Items: 1, Delivered: 0}})
	c.ok("Ack", got[0].Ack(c.ctx))
	c.ok("Retry", got[1].Retry(c.ctx, time.Hour))
	c.ok("Ack", c.fetch(laneB, 1)[0].Ack(c.ctx))
	want("one acknowledged, one put off", map[queue.Lane]queue.Backlog{laneA: {Items: 4, Delivered: 2}, queue.Callbacks: {Items: 5, Delivered: 0}})
	c.ok("Retry", got[2].Retry(c.ctx, 0))
	want("one handed back", map[queue.Lane]queue.Backlog{laneA: {Items: 4, Delivered: 1}, queue.Callbacks: {Items: 5, Delivered: 0}})
}

func records(c *check) {
	one, two := id(1, 7), id(2, 8)
	_, err := c.Load(c.ctx, one)
	c.not("Load of none", err, queue.ErrNotFound)
	_, err = c.Find(c.ctx, one.Nonce)
	c.not("Find of none", err, queue.ErrNotFound)
	c.ok("Forget of none", c.Forget(c.ctx, one))
	c.ok("Save", c.Save(c.ctx, one, []byte("1"), time.Hour))
	c.ok("Save", c.Save(c.ctx, two, []byte("2"), 0))
	c.ok("Save again", c.Save(c.ctx, one, []byte("1 again"), 0))
	for id, want := range map[queue.ID]string{one: "1 again", two: "2"} {
		if data, err := c.Load(c.ctx, id); err != nil || string(data) != want {
			c.Errorf("the record is %q, %v, expected %q", data, err, want)
		}
		if found, err := c.Find(c.ctx, id.Nonce); err != nil || found != id {
			c.Errorf("found %v, %v, expected %v", found, err, id)
		}
	}
	_, err = c.Load(c.ctx, queue.ID{Nonce: one.Nonce, Seq: 8})
	c.not("Load of another place", err, queue.ErrNotFound)
	c.ok("Forget", c.Forget(c.ctx, one))
	_, err = c.Load(c.ctx, one)
	c.not("Load of a forgotten one", err, queue.ErrNotFound)
	_, err = c.Find(c.ctx, one.Nonce)
	c.not("Find of a forgotten one", err, queue.ErrNotFound)
	c.ok("Save after Forget", c.Save(c.ctx, one, []byte("3"), 0))
	if data, err := c.Load(c.ctx, one); err != nil || string(data) != "3" {
		c.Errorf("saved anew it is %q, %v", data, err)
	}
}

func recordsEnd(c *check) {
	c.ok("Save", c.Save(c.ctx, id(1, 1), []byte("1"), time.Second))
	c.ok("Save", c.Save(c.ctx, id(2, 2), []byte("2"), time.Second))
	c.ok("Save", c.Save(c.ctx, id(2, 2), []byte("2 for long"), time.Hour))
	c.ok("Save", c.Save(c.ctx, id(3, 3), []byte("3"), time.Second))
	c.ok("Save", c.Save(c.ctx, id(3, 3), []byte("3 for good"), 0))
	c.until("a record of a second is gone", func() bool {
		_, err := c.Load(c.ctx, id(1, 1))
		return errors.Is(err, queue.ErrNotFound)
	})
	_, err := c.Find(c.ctx, id(1, 1).Nonce)
	c.not("Find", err, queue.ErrNotFound)
	time.Sleep(1500 * time.Millisecond)
	for id, want := range map[queue.ID]string{id(2, 2): "2 for long", id(3, 3): "3 for good"} {
		if data, err := c.Load(c.ctx, id); err != nil || string(data) != want {
			c.Errorf("the record is %q, %v, expected %q", data, err, want)
		}
	}
}

func letters(c *check) {
	for i := byte(1); i <= 6; i++ {
		c.ok("Bury", c.Bury(c.ctx, []queue.Lane{laneA, laneB}[i%2], id(i, uint64(i)), []byte{i}))
	}
	c.ok("Bury again", c.Bury(c.ctx, laneB, id(1, 1), []byte("other")))
	list := func(lane queue.Lane, after uint64, n int) (got []byte, last uint64) {
		c.Helper()
		all, err := c.Buried(c.ctx, lane, after, n)
		c.ok("Buried", err)
		for _, l := range all {
			i := l.Data[0]
			if len(l.Data) != 1 || l.ID != id(i, uint64(i)) || l.Seq <= last || l.Seq <= after || l.Lane != []queue.Lane{laneA, laneB}[i%2] {
				c.Errorf("a letter is %+v", l)
			}
			got, last = append(got, i), l.Seq
		}
		return got, last
	}
	want := func(got []byte, want ...byte) {
		c.Helper()
		if !slices.Equal(got, want) {
			c.Errorf("the letters are %v, expected %v", got, want)
		}
	}
	all, _ := list("", 0, 100)
	want(all, 1, 2, 3, 4, 5, 6)
	page, last := list("", 0, 4)
	want(page, 1, 2, 3, 4)
	page, last = list("", last, 4)
	want(page, 5, 6)
	page, _ = list("", last, 4)
	want(page)
	page, last = list(laneB, 0, 2)
	want(page, 1, 3)
	page, _ = list(laneB, last, 2)
	want(page, 5)
	one, err := c.Letter(c.ctx, id(3, 3))
	if err != nil || one.ID != id(3, 3) || one.Lane != laneB || string(one.Data) != "\x03" {
		c.Errorf("the letter is %+v, %v", one, err)
	}
	_, err = c.Letter(c.ctx, id(3, 4))
	c.not("Letter of another place", err, queue.ErrNotFound)
	c.ok("Unbury", c.Unbury(c.ctx, id(3, 3)))
	c.not("Unbury again", c.Unbury(c.ctx, id(3, 3)), queue.ErrNotFound)
	_, err = c.Letter(c.ctx, id(3, 3))
	c.not("Letter of a dropped one", err, queue.ErrNotFound)
	all, _ = list("", 0, 100)
	want(all, 1, 2, 4, 5, 6)
}

func news(c *check) {
	heard := c.Heard()
	if heard != c.Heard() {
		c.Error("Heard is another channel each time")
	}
	got := map[string]bool{}
	// News may be lost; not all of it is.
	for i := 0; len(got) < 3 && i < 100; i++ {
		c.ok("Tell", c.Tell([]byte{'n', byte(i)}))
		select {
		case news := <-heard:
			if len(news) != 2 || news[0] != 'n' {
				c.Fatalf("heard %q", news)
			}
			got[string(news)] = true
		case <-time.After(most / 10):
		}
	}
	if len(got) < 3 {
		c.Errorf("of 100 news %d were heard", len(got))
	}
	one, err := c.Secret(c.ctx)
	c.ok("Secret", err)
	two, err := c.Secret(c.ctx)
	c.ok("Secret", err)
	if one != two || one == [32]byte{} {
		c.Error("the secret is none, or another each time")
	}
}

func sizes(c *check) {
	if c.MaxData() < 1<<16 || c.Lease() <= 0 {
		c.Fatalf("at most %d bytes, a lease of %v", c.MaxData(), c.Lease())
	}
	if c.MaxData() > 64<<20 {
		c.Skip("too large to try")
	}
	data := make([]byte, c.MaxData()+1)
	for i := range data {
		data[i] = byte(i * 7)
	}
	_, _, err := c.Put(c.ctx, laneA, data, "")
	c.not("Put of too much", err, queue.ErrTooLarge)
	seq, _, err := c.Put(c.ctx, laneA, data[1:], "")
	c.ok("Put of the most", err)
	if it, err := c.Get(c.ctx, seq); err != nil || !slices.Equal(it.Data, data[1:]) {
		c.Errorf("the largest is %d long, %v", len(it.Data), err)
	}
	if d := c.fetch(laneA, 1)[0]; !slices.Equal(d.Item().Data, data[1:]) {
		c.Errorf("the largest is delivered as %d bytes", len(d.Item().Data))
	}
	c.ok("Bury of the most", c.Bury(c.ctx, laneA, id(1, seq), data[1:]))
}

// ended: what is asked with a context that has ended is answered at once.
func ended(c *check) {
	seq := c.put(laneA, "x")
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	for what, do := range map[string]func() error{
		"Put":      func() error { _, _, err := c.Put(ctx, laneA, []byte("y"), ""); return err },
		"Get":      func() error { _, err := c.Get(ctx, seq); return err },
		"Save":     func() error { return c.Save(ctx, id(1, 1), nil, 0) },
		"Load":     func() error { _, err := c.Load(ctx, id(1, 1)); return err },
		"Backlogs": func() error { _, err := c.Backlogs(ctx); return err },
		"Bury":     func() error { return c.Bury(ctx, laneA, id(1, 1), []byte("x")) },
	} {
		start := time.Now()
		if err := do(); err == nil {
			c.Errorf("%s has no error", what)
		}
		if took := time.Since(start); took > most/2 {
			c.Errorf("%s took %v", what, took)
		}
	}
}
