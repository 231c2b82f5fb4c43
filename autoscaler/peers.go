package autoscaler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// The bounds of reading another gateway.
const (
	peerTimeout = 2 * time.Second
	// peerBound is 20,000 functions with a few pods each.
	peerBound = 64 << 20
	// peersAtOnce is more gateways than a release has.
	peersAtOnce = 16
	// wholeEvery is how often a gateway is asked for everything, and not for
	// the changes alone: what it has dropped it does not name.
	wholeEvery = time.Minute
)

// peers reads what the other gateways carry. One that cannot be read keeps its
// last report: its requests are still under way somewhere.
type peers struct {
	client http.Client
	last   map[string]heard // by address; only the loop touches it
}

// heard is all that is known of a gateway. What was handed out of it is not
// changed any more.
type heard struct {
	report fleet.Report
	index  map[string]int // in report's Functions, by name; made when needed
	whole  time.Time      // when everything was asked for last
}

func newPeers() *peers {
	return &peers{
		client: http.Client{
			Timeout: peerTimeout,
			Transport: &http.Transport{
				DialContext:            (&net.Dialer{Timeout: peerTimeout}).DialContext,
				MaxIdleConnsPerHost:    1,
				IdleConnTimeout:        30 * time.Second,
				MaxResponseHeaderBytes: 16 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		last: map[string]heard{},
	}
}

// read asks all addresses at once, each once. complete is false if one did not answer;
// what it said last is in the reports still. A gateway that is no longer among
// the addresses is forgotten.
func (p *peers) read(ctx context.Context, addresses []string) (reports []fleet.Report, complete bool, err error) {
	type answer struct {
		heard
		err error
	}
	addresses = slices.Compact(slices.Sorted(slices.Values(addresses)))
	answers := make([]answer, len(addresses))
	room := make(chan struct{}, peersAtOnce)
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			answers[i].heard, answers[i].err = p.hear(ctx, address, p.last[address])
		})
	}
	all.Wait()
	complete = true
	last := make(map[string]heard, len(addresses))
	for i, address := range addresses {
		now := answers[i].heard
		if answers[i].err != nil {
			complete, err = false, answers[i].err
			known := false
			if now, known = p.last[address]; !known {
				continue
			}
		}
		last[address] = now
		reports = append(reports, now.report)
	}
	p.last = last
	return reports, complete, err
}

// hear asks one gateway what has changed since it was heard last, or for
// everything.
func (p *peers) hear(ctx context.Context, address string, was heard) (heard, error) {
	asked := time.Now()
	query := url.Values{}
	if was.report.Mark > 0 && asked.Sub(was.whole) < wholeEvery {
		query.Set(fleet.QuerySince, strconv.FormatInt(was.report.Mark, 10))
		query.Set(fleet.QueryGateway, was.report.Gateway)
	}
	report, err := p.ask(ctx, address, query.Encode())
	switch {
	case err != nil:
		return heard{}, err
	case report.Since == 0:
		return heard{report: report, whole: asked}, nil
	case report.Since != was.report.Mark || report.Gateway != was.report.Gateway || len(query) == 0:
		return heard{}, fmt.Errorf("demand of the weir at %s: changes since a report that was not asked about", address)
	}
	return was.and(report), nil
}

// and is what is known with newer changes. A function that they do not name is
// as it was.
func (h heard) and(changes fleet.Report) heard {
	functions := slices.Clone(h.report.Functions)
	if h.index == nil {
		h.index = make(map[string]int, len(functions))
		for i := range functions {
			h.index[functions[i].Function] = i
		}
	}
	for _, d := range changes.Functions {
		if i, known := h.index[d.Function]; known {
			functions[i] = d
		} else {
			h.index[d.Function] = len(functions)
			functions = append(functions, d)
		}
	}
	h.report = changes
	h.report.Functions = functions
	return h
}

func (p *peers) ask(ctx context.Context, address, query string) (report fleet.Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("demand of the weir at %s: %w", address, err)
		}
	}()
	u := url.URL{Scheme: "http", Host: address, Path: contract.DemandPath, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return report, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return report, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return report, fmt.Errorf("it answers %s", resp.Status)
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, peerBound)).Decode(&report)
	if err == nil && report.Gateway == "" {
		err = fmt.Errorf("the answer names no gateway")
	}
	return report, err
}

func (p *peers) close() { p.client.CloseIdleConnections() }
