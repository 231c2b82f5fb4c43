package autoscaler

// pace is how fast things go in pods: running, queued and cpu are means over
// the time since the last reading (cpu in milli-CPU), refused and started are
// per second. finished requests held inFlight slot-seconds.
type pace struct {
	running, queued, refused, started, cpu float64
	finished, inFlight                     float64
}

func (p *pace) add(q pace) {
	p.running += q.running
	p.queued += q.queued
	p.refused += q.refused
	p.started += q.started
	p.cpu += q.cpu
	p.finished += q.finished
	p.inFlight += q.inFlight
}

// pace compares a reading with the one before. A pod that is read for the first
// time, or whose counters went back, says what is present only.
func (g *gathering) pace(r reading) pace {
	uid, name := r.pod.About().UID, r.pod.About().Name
	was, known := g.t.pods[uid]
	now := r.now
	span := now.At.Sub(was.At).Seconds()
	if !known || span < leastSpan || now.InFlightSeconds < was.InFlightSeconds || now.Requests < was.Requests || now.Rejected < was.Rejected {
		return pace{running: now.InFlight, queued: now.Queued}
	}
	rejected := now.Rejected - was.Rejected
	finished := max(0, now.Requests-was.Requests-rejected)
	if finished > 0 {
		g.t.ended = latest(g.t.ended, now.At)
	}
	p := pace{
		running:  (now.InFlightSeconds - was.InFlightSeconds) / span,
		queued:   max(0, now.QueuedSeconds-was.QueuedSeconds) / span,
		refused:  max(0, rejected-g.repeated(name, uid)) / span,
		started:  max(0, finished+now.InFlight-was.InFlight) / span,
		cpu:      max(0, now.CPUSeconds-was.CPUSeconds) / span * 1000,
		finished: finished,
	}
	if finished > 0 {
		p.inFlight = p.running * span
	}
	return p
}

// repeated is how many requests of the gateways the pod refused since the last
// tick. They are held or sent elsewhere, and so counted where they wait.
func (g *gathering) repeated(name, uid string) (n float64) {
	for _, c := range g.gateways {
		p, ok := c.demand.Pods[name]
		if !ok || p.UID != uid {
			continue
		}
		before := g.t.gateways[c.gateway].demand.Pods[name]
		if before.UID != uid || before.Refused > p.Refused {
			before.Refused = 0
		}
		n += float64(p.Refused - before.Refused)
	}
	return n
}
