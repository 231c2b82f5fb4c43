package queuetest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/weir-run/weir/queue"
)

// heardBuffer is how much news a weir may be behind before some is lost.
const heardBuffer = 1024

// Store is one weir's way to a Memory.
type Store struct {
	m     *Memory
	heard chan []byte
}

var _ queue.Store = (*Store)(nil)

// Put implements queue.Store, as all of these methods do.
func (s *Store) Put(ctx context.Context, lane queue.Lane, data []byte, key string) (seq uint64, duplicate bool, err error) {
	err = s.m.do(ctx, "Put", lane, func() (err error) {
		seq, duplicate, err = s.m.put(lane, data, key)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return seq, duplicate, nil
}

// Get is an item by its place.
func (s *Store) Get(ctx context.Context, seq uint64) (found queue.Item, err error) {
	err = s.m.do(ctx, "Get", "", func() error {
		it := s.m.items[seq]
		if it == nil {
			return queue.ErrNotFound
		}
		found = it.Item
		return nil
	})
	return found, err
}

// Remove takes an item away.
func (s *Store) Remove(ctx context.Context, seq uint64) error {
	return s.m.do(ctx, "Remove", "", func() error {
		if !s.m.remove(seq) {
			return queue.ErrNotFound
		}
		return nil
	})
}

// Oldest is the first item of a lane.
func (s *Store) Oldest(ctx context.Context, name queue.Lane) (found queue.Item, err error) {
	err = s.m.do(ctx, "Oldest", name, func() error {
		var first *item
		for _, it := range s.m.lane(name).out {
			if first == nil || it.Seq < first.Seq {
				first = it
			}
		}
		for _, it := range s.m.lane(name).fresh {
			if s.m.items[it.Seq] == it {
				if first == nil || it.Seq < first.Seq {
					first = it
				}
				break
			}
		}
		if first == nil {
			return queue.ErrNotFound
		}
		found = first.Item
		return nil
	})
	return found, err
}

// Fetch delivers items. Where its context ends while it waits it delivers
// nothing.
func (s *Store) Fetch(ctx context.Context, name queue.Lane, n int, wait time.Duration) (taken []queue.Delivery, err error) {
	deadline := s.m.now().Add(wait)
	for {
		var due time.Time
		var news <-chan struct{}
		if err := s.m.do(ctx, "Fetch", name, func() error {
			taken, due = s.m.take(name, n)
			news = s.m.lane(name).next()
			return nil
		}); err != nil {
			return nil, err
		}
		left := deadline.Sub(s.m.now())
		if len(taken) > 0 || left <= 0 {
			return taken, nil
		}
		if !due.IsZero() {
			left = min(left, due.Sub(s.m.now()))
		}
		timer := time.NewTimer(left)
		select {
		case <-news:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil
		}
		timer.Stop()
	}
}

// Backlogs counts.
func (s *Store) Backlogs(ctx context.Context) (all map[queue.Lane]queue.Backlog, err error) {
	err = s.m.do(ctx, "Backlogs", "", func() error {
		all = map[queue.Lane]queue.Backlog{}
		now := s.m.now()
		for name, l := range s.m.lanes {
			if l.items == 0 {
				continue
			}
			b := queue.Backlog{Items: l.items}
			for _, it := range l.out {
				if it.until.After(now) {
					b.Delivered++
				}
			}
			all[name] = b
		}
		return nil
	})
	return all, err
}

// Save keeps a record.
func (s *Store) Save(ctx context.Context, id queue.ID, data []byte, keep time.Duration) error {
	return s.m.do(ctx, "Save", "", func() error {
		r := record{id: id, data: slices.Clone(data)}
		if keep > 0 {
			r.until = s.m.now().Add(keep)
		}
		s.m.records[id.Nonce] = r
		return nil
	})
}

// record is called with m locked.
func (m *Memory) record(nonce queue.Nonce) (record, error) {
	r, ok := m.records[nonce]
	if !ok {
		return r, queue.ErrNotFound
	}
	if !r.until.IsZero() && !m.now().Before(r.until) {
		delete(m.records, nonce)
		return r, queue.ErrNotFound
	}
	return r, nil
}

// Load is a record.
func (s *Store) Load(ctx context.Context, id queue.ID) (data []byte, err error) {
	err = s.m.do(ctx, "Load", "", func() error {
		r, err := s.m.record(id.Nonce)
		if err == nil && r.id != id {
			err = queue.ErrNotFound
		}
		data = slices.Clone(r.data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Find is a call by the nonce of its record.
func (s *Store) Find(ctx context.Context, nonce queue.Nonce) (id queue.ID, err error) {
	err = s.m.do(ctx, "Find", "", func() error {
		r, err := s.m.record(nonce)
		if err == nil {
			id = r.id
		}
		return err
	})
	return id, err
}

// Forget drops a record.
func (s *Store) Forget(ctx context.Context, id queue.ID) error {
	return s.m.do(ctx, "Forget", "", func() error {
		if r, ok := s.m.records[id.Nonce]; ok && r.id == id {
			delete(s.m.records, id.Nonce)
		}
		return nil
	})
}

// letter is called with m locked.
func (m *Memory) letter(id queue.ID) (int, bool) {
	at := slices.IndexFunc(m.letters, func(l queue.Letter) bool { return l.ID == id })
	return at, at >= 0
}

// Bury keeps a dead letter.
func (s *Store) Bury(ctx context.Context, name queue.Lane, id queue.ID, data []byte) error {
	return s.m.do(ctx, "Bury", name, func() error {
		if len(data) > s.m.cfg.MaxData {
			return queue.ErrTooLarge
		}
		if _, there := s.m.letter(id); there {
			return nil
		}
		s.m.buried++
		s.m.letters = append(s.m.letters, queue.Letter{Lane: name, ID: id, Seq: s.m.buried, Data: slices.Clone(data)})
		return nil
	})
}

// Buried lists dead letters.
func (s *Store) Buried(ctx context.Context, name queue.Lane, after uint64, n int) (found []queue.Letter, err error) {
	err = s.m.do(ctx, "Buried", name, func() error {
		first, _ := slices.BinarySearchFunc(s.m.letters, after, func(l queue.Letter, after uint64) int { return cmp.Compare(l.Seq, after+1) })
		for _, l := range s.m.letters[first:] {
			if len(found) >= n {
				break
			}
			if name == "" || l.Lane == name {
				found = append(found, l)
			}
		}
		return nil
	})
	return found, err
}

// Letter is a dead letter.
func (s *Store) Letter(ctx context.Context, id queue.ID) (found queue.Letter, err error) {
	err = s.m.do(ctx, "Letter", "", func() error {
		at, there := s.m.letter(id)
		if !there {
			return queue.ErrNotFound
		}
		found = s.m.letters[at]
		return nil
	})
	return found, err
}

// Unbury drops a dead letter.
func (s *Store) Unbury(ctx context.Context, id queue.ID) error {
	return s.m.do(ctx, "Unbury", "", func() error {
		at, there := s.m.letter(id)
		if !there {
			return queue.ErrNotFound
		}
		s.m.letters = slices.Delete(s.m.letters, at, at+1)
		return nil
	})
}

// Tell lets all hear; who does not listen misses it.
func (s *Store) Tell(news []byte) error {
	return s.m.do(context.Background(), "Tell", "", func() error {
		for _, view := range s.m.views {
			select {
			case view.heard <- slices.Clone(news):
			default:
			}
		}
		return nil
	})
}

// Heard is what was told.
func (s *Store) Heard() <-chan []byte { return s.heard }

// Secret is the same for all.
func (s *Store) Secret(ctx context.Context) (secret [32]byte, err error) {
	err = s.m.do(ctx, "Secret", "", func() error {
		secret = s.m.secret
		return nil
	})
	return secret, err
}

// MaxData is Config's.
func (s *Store) MaxData() int { return s.m.cfg.MaxData }

// Lease is Config's.
func (s *Store) Lease() time.Duration { return s.m.cfg.Lease }
