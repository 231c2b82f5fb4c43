package queuetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weir-run/weir/queue"
)

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
	// When this one's second is over, that of the replaced ones is too.
	c.ok("Save", c.Save(c.ctx, id(4, 4), []byte("4"), time.Second))
	c.until("a record of a second later is gone", func() bool {
		_, err := c.Load(c.ctx, id(4, 4))
		return errors.Is(err, queue.ErrNotFound)
	})
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
