package fleet

import (
	"context"
	"log/slog"
)

// Prober asks pods what they are.
type Prober struct {
	Log *slog.Logger
}

func (pr *Prober) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// seen is called with the fleet locked whenever a Put held the pod.
func (p *Pod) seen() { p.poke() }

// leave is called with the fleet locked when the pod is no more.
func (p *Pod) leave() { p.Drains() }
