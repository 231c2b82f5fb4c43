package queuetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-run/weir/queue"
)

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
