package autoscaler

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// The bounds of one reading of a pod's counters.
const (
	// scrapeTimeout is also how long a pod that hangs can hold up a tick.
	scrapeTimeout = 3 * time.Second
	// scrapeBound is far above what the asked families take: what answers at
	// a pod's metrics port is not ours to trust.
	scrapeBound = 1 << 20
)

// Counters is what a pod said of itself at one moment. Totals count from the
// start of the pod.
type Counters struct {
	At time.Time
	// InFlight requests hold a slot; InFlightSeconds is the integral over
	// time. Queued and QueuedSeconds are the same of those that wait.
	InFlight, InFlightSeconds float64
	Queued, QueuedSeconds     float64
	// Requests were answered, Rejected are those among them that the handler
	// never saw, for want of room or of a resource.
	Requests, Rejected float64
	CPUSeconds         float64
	// MaxInflight is the most that may be in flight, 0 no limit.
	MaxInflight int
	// LastStart is when a request last got a slot, zero before the first.
	LastStart time.Time
}

// Scraper reads the counters of pods that hold fwatchdog.
type Scraper struct {
	client http.Client
}

// families are asked for by name, so that a scrape is one small packet.
var families = []string{
	contract.MetricInFlight, contract.MetricInFlightSeconds, contract.MetricQueueDepth, contract.MetricQueueSeconds,
	contract.MetricRequests, contract.MetricRejected, contract.MetricCPUSeconds, contract.MetricMaxInflight,
	contract.MetricLastStart, contract.MetricReady,
}

var scrapeQuery = url.Values{"name[]": families}.Encode()

// NewScraper makes a Scraper that keeps one connection to each pod.
func NewScraper() *Scraper {
	return &Scraper{client: http.Client{
		Timeout: scrapeTimeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: scrapeTimeout}).DialContext,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        10 * time.Second,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
			ReadBufferSize:         4 << 10,
			WriteBufferSize:        1 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends the kept connections.
func (s *Scraper) Close() { s.client.CloseIdleConnections() }

// Read asks a pod for its counters.
func (s *Scraper) Read(ctx context.Context, pod *fleet.Pod) (Counters, error) {
	u := url.URL{Scheme: "http", Host: pod.About().Metrics, Path: "/metrics", RawQuery: scrapeQuery}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Counters{}, fmt.Errorf("metrics of pod %s: %w", pod.About().Name, err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return Counters{}, fmt.Errorf("metrics of pod %s: %w", pod.About().Name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	at := time.Now()
	if resp.StatusCode != http.StatusOK {
		return Counters{}, fmt.Errorf("metrics of pod %s: %s answers %s", pod.About().Name, u.Host, resp.Status)
	}
	c, err := parse(io.LimitReader(resp.Body, scrapeBound))
	if err != nil {
		return Counters{}, fmt.Errorf("metrics of pod %s at %s: %w", pod.About().Name, u.Host, err)
	}
	c.At = at
	return c, nil
}

// parse reads the text format. Families it does not know are passed over; one
// that is missing counts as 0, but without watchdog_ready it is no fwatchdog
// that answers.
func parse(r io.Reader) (Counters, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return Counters{}, err
	}
	sum := func(name string, counts func(label string) bool) (total float64) {
		for _, m := range found[name].GetMetric() {
			if counts != nil && len(m.GetLabel()) > 0 && !counts(m.GetLabel()[0].GetValue()) {
				continue
			}
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue(); v >= 0 && v < 1e18 {
				total += v
			}
		}
		return total
	}
	if found[contract.MetricReady] == nil {
		return Counters{}, fmt.Errorf("no %s: expected what fwatchdog serves", contract.MetricReady)
	}
	c := Counters{
		InFlight: sum(contract.MetricInFlight, nil), InFlightSeconds: sum(contract.MetricInFlightSeconds, nil),
		Queued: sum(contract.MetricQueueDepth, nil), QueuedSeconds: sum(contract.MetricQueueSeconds, nil),
		Requests: sum(contract.MetricRequests, nil), Rejected: sum(contract.MetricRejected, isDemand),
		CPUSeconds: sum(contract.MetricCPUSeconds, nil),
		// Of a limit that finds itself this is what it found, not what it may
		// rise to: the load that a pod was seen to carry.
		MaxInflight: int(min(sum(contract.MetricMaxInflight, nil), 1e9)),
	}
	if last := sum(contract.MetricLastStart, nil); last > 0 && last < 1e11 {
		c.LastStart = time.Unix(0, int64(last*1e9))
	}
	return c, nil
}

// isDemand says whether a request refused for this reason was work that more
// pods would have done. What a pod refuses because it or its handler ends is
// sent elsewhere.
func isDemand(reason string) bool {
	return reason != contract.RejectDraining && reason != contract.RejectHandler
}
