package gateway

import "github.com/weir-run/weir/fleet"

// wake starts waking a function that sleeps, and what has to wake with it. It
// returns at once.
func (g *Gateway) wake(e *fleet.Entry) {}
