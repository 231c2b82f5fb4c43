package jetstream

import (
	"context"
	"sync"
)

// doubt is up to which place a server may have forgotten what it delivered. It
// writes that down ten times a second, so that a kill costs it some; every
// server that is connected to anew is taken for one that was killed.
type doubt struct {
	mu   sync.Mutex
	last uint64
	// connection is the one before which last was given.
	connection uint64
}

// connection is 0 for the first, and one more each time it was made anew.
func (s *Store) connection() uint64 { return s.conn.Stats().Reconnects }

// resolve learns the last place that was given before this connection, if it is
// not known yet.
func (s *Store) resolve(ctx context.Context) error {
	d, now := &s.doubt, s.connection()
	d.mu.Lock()
	known := d.connection == now
	d.mu.Unlock()
	if known {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := s.queue.Info(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.connection, d.last = now, info.State.LastSeq
	return nil
}

// doubtful says whether what is at a place may have been delivered before,
// whatever the server says.
func (s *Store) doubtful(place uint64) bool {
	s.doubt.mu.Lock()
	defer s.doubt.mu.Unlock()
	return place <= s.doubt.last || s.doubt.connection != s.connection()
}
