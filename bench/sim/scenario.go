package main

import (
	"math"
	"time"

	"github.com/weir-run/weir/function"
)

// scenario is a function, how much is asked of it, and for how long.
type scenario struct {
	name, title string
	seed        uint64
	length      time.Duration
	spec        function.Spec

	// load is how many calls would be in flight if none had to wait, peak the
	// most that it gets. bursts come on top.
	load   func(at time.Duration) float64
	peak   float64
	bursts []burst
	// messages are put into the queue: async calls.
	messages []burst
	// clients each wait for their answer before they call again, from clientsFrom
	// to clientsTo.
	clients                int
	clientsFrom, clientsTo time.Duration

	// service is the mean time of a call; they take from half of it to half
	// as much again. startup is how long a pod takes to be started, at most a
	// fifth more. maxInflight is what a pod takes at once.
	service, startup time.Duration
	maxInflight      int
	// direct: the callers go to the pods, past the gateway, and do not come
	// again when they are refused.
	direct bool
	// replicas are there at the start.
	replicas int
}

// burst is a number of calls at one moment.
type burst struct {
	at    time.Duration
	calls int
}

func none(time.Duration) float64 { return 0 }

func sawtooth(at time.Duration) float64 {
	if at >= 14*time.Minute {
		return 20
	}
	return 20 + 180*math.Mod(at.Minutes(), 2)/2
}

// trickle is one call every so often.
func trickle(every, length time.Duration) []burst {
	var all []burst
	for at := every / 3; at < length; at += every {
		all = append(all, burst{at, 1})
	}
	return all
}

// scenarios are those of the documents and of the tests.
func scenarios() []scenario {
	return []scenario{
		{
			name: "step", title: "Step: ten times the load, for five minutes",
			seed: 1, length: 12 * time.Minute, replicas: 3, peak: 200,
			load: func(at time.Duration) float64 {
				if at >= 2*time.Minute && at < 7*time.Minute {
					return 200
				}
				return 20
			},
		},
		{
			name: "spike", title: "Spike: thirty times the load, for ten seconds",
			seed: 2, length: 6 * time.Minute, replicas: 3, peak: 300,
			load: func(at time.Duration) float64 {
				if at >= 2*time.Minute && at < 2*time.Minute+10*time.Second {
					return 300
				}
				return 10
			},
		},
		{
			name: "ramp", title: "Ramp: up for five minutes, and down for five",
			seed: 3, length: 15 * time.Minute, replicas: 3, peak: 300,
			load: func(at time.Duration) float64 {
				minutes := at.Minutes()
				return 300 * max(0, min(1, (minutes-1)/5, (13-minutes)/5))
			},
		},
		{
			name: "sawtooth", title: "Sawtooth: every two minutes from 20 up to 200",
			seed: 4, length: 15 * time.Minute, replicas: 3, peak: 200,
			load: sawtooth,
		},
		{
			name: "sawtooth-window", title: "Sawtooth, with a down-window of three minutes",
			seed: 4, length: 15 * time.Minute, replicas: 3, peak: 200,
			load: sawtooth,
			spec: function.Spec{DownWindow: 3 * time.Minute},
		},
		{
			name: "trickle", title: "Trickle: a call every minute and a half, to sleep after one",
			seed: 5, length: 15 * time.Minute, load: none, bursts: trickle(90*time.Second, 15*time.Minute),
			spec: function.Spec{Zero: true, ZeroAfter: time.Minute},
		},
		{
			name: "burst", title: "Burst: 300 calls at once to a sleeping function",
			seed: 6, length: 4 * time.Minute, load: none,
			bursts: []burst{{30*time.Second + 300*time.Millisecond, 300}}, service: time.Second,
			spec: function.Spec{Zero: true, ZeroAfter: time.Minute},
		},
		{
			name: "queue", title: "Queue: 20,000 async calls of 20 ms, at once, to one pod",
			seed: 11, length: 4 * time.Minute, replicas: 1, load: none, service: 20 * time.Millisecond,
			bursts:   []burst{{5 * time.Second, 50}},
			messages: []burst{{30*time.Second + 300*time.Millisecond, 20_000}},
		},
		{
			name: "clients", title: "Clients: 300 that each wait for their answer before they call again",
			seed: 9, length: 10 * time.Minute, replicas: 1, load: none,
			clients: 300, clientsFrom: time.Minute, clientsTo: 5 * time.Minute,
		},
		{
			name: "slow", title: "Slow start: a step, and pods that take 30 s to start",
			seed: 7, length: 12 * time.Minute, replicas: 3, peak: 200, startup: 30 * time.Second,
			load: func(at time.Duration) float64 {
				if at >= 2*time.Minute && at < 7*time.Minute {
					return 200
				}
				return 20
			},
		},
		{
			name: "refusing", title: "Refusing: the step, from callers that go past the gateway",
			seed: 8, length: 12 * time.Minute, replicas: 4, peak: 200, direct: true,
			load: func(at time.Duration) float64 {
				if at >= 2*time.Minute && at < 7*time.Minute {
					return 200
				}
				return 20
			},
			spec: function.Spec{Proportion: 0.7},
		},
	}
}

// whole is the scenario with what it leaves open: target 10 of a max_inflight
// of 10, proportion 0.9, 1 to 100 replicas, calls of 200 ms, 2 s to start.
func (s scenario) whole() scenario {
	set(&s.service, 200*time.Millisecond)
	set(&s.startup, 2*time.Second)
	set(&s.maxInflight, 10)
	set(&s.spec.Type, function.Capacity)
	set(&s.spec.Min, 1)
	set(&s.spec.Max, 100)
	set(&s.spec.Target, 10)
	set(&s.spec.Proportion, function.DefaultProportion)
	set(&s.spec.ZeroAfter, function.DefaultZeroAfter)
	return s
}

func set[T comparable](field *T, value T) {
	var none T
	if *field == none {
		*field = value
	}
}
