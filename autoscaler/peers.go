package autoscaler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
)

// peers reads what the other gateways carry. One that cannot be read keeps its
// last report: its requests are still under way somewhere.
type peers struct {
	client http.Client
	last   map[string]fleet.Report // by address; only the loop touches it
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
		last: map[string]fleet.Report{},
	}
}

// read asks all addresses at once. complete is false if one did not answer;
// what it said last is in the reports still. A gateway that is no longer among
// the addresses is forgotten.
func (p *peers) read(ctx context.Context, addresses []string) (reports []fleet.Report, complete bool, err error) {
	type answer struct {
		report fleet.Report
		err    error
	}
	answers := make([]answer, len(addresses))
	room := make(chan struct{}, peersAtOnce)
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			answers[i].report, answers[i].err = p.ask(ctx, address)
		})
	}
	all.Wait()
	complete = true
	last := make(map[string]fleet.Report, len(addresses))
	for i, address := range addresses {
		report := answers[i].report
		if answers[i].err != nil {
			complete, err = false, answers[i].err
			known := false
			if report, known = p.last[address]; !known {
				continue
			}
		}
		last[address] = report
		reports = append(reports, report)
	}
	p.last = last
	return reports, complete, err
}

func (p *peers) ask(ctx context.Context, address string) (report fleet.Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("demand of the weir at %s: %w", address, err)
		}
	}()
	u := url.URL{Scheme: "http", Host: address, Path: contract.DemandPath}
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
