package gateway

import (
	"context"
	"time"
)

// Drain has /healthz say that this gateway should get no more requests. All
// are served still.
func (g *Gateway) Drain() { g.draining.Store(true) }

// Draining reports whether Drain was called.
func (g *Gateway) Draining() bool { return g.draining.Load() }

// waitPause is between two looks at what is under way.
const waitPause = 20 * time.Millisecond

// Wait returns when no call is under way, upgraded connections included, which
// an http.Server does not wait for, or with the error of ctx.
func (g *Gateway) Wait(ctx context.Context) error {
	ticker := time.NewTicker(waitPause)
	defer ticker.Stop()
	for {
		if g.underWay() == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *Gateway) underWay() (n int) {
	for _, l := range g.all() {
		l.mu.Lock()
		n += l.running.n + l.held.n
		l.mu.Unlock()
	}
	return n
}
