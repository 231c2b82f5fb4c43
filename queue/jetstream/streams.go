package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

func (s *Store) queueName() string { return s.cfg.Name + "-queue" }

// streams makes what is not there and brings to its settings what is.
func (s *Store) streams(ctx context.Context) error {
	base := jetstream.StreamConfig{Storage: jetstream.FileStorage, Replicas: s.cfg.Replicas}
	items, records, letters, meta := base, base, base, base

	items.Name, items.Subjects = s.queueName(), []string{s.cfg.Name + ".q.>"}
	items.Description = "weir: calls that are queued"
	items.Retention, items.Discard, items.DiscardNewPerSubject = jetstream.WorkQueuePolicy, jetstream.DiscardNew, true
	items.MaxBytes, items.MaxMsgsPerSubject = s.cfg.MaxBytes, s.cfg.MaxLane
	items.Duplicates = s.cfg.Window

	records.Name, records.Subjects = s.cfg.Name+"-records", []string{s.cfg.Name + ".r.>"}
	records.Description = "weir: what became of calls"
	records.MaxMsgsPerSubject, records.AllowMsgTTL = 1, true
	records.MaxBytes, records.MaxMsgs = s.cfg.RecordBytes, s.cfg.MaxRecords

	letters.Name, letters.Subjects = s.cfg.Name+"-dead-letters", []string{s.cfg.Name + ".d.>"}
	letters.Description = "weir: calls that were given up"
	letters.Discard, letters.MaxBytes = jetstream.DiscardNew, s.cfg.LetterBytes

	meta.Name, meta.Subjects = s.cfg.Name+"-meta", []string{s.cfg.Name + ".m.>"}
	meta.Description = "weir: what all weirs share"
	meta.MaxMsgsPerSubject, meta.MaxBytes = 1, 1<<20

	for _, one := range []struct {
		stream *jetstream.Stream
		config jetstream.StreamConfig
	}{{&s.queue, items}, {&s.records, records}, {&s.letters, letters}, {&s.meta, meta}} {
		stream, err := s.stream(ctx, one.config)
		if err != nil {
			return err
		}
		*one.stream = stream
	}
	return nil
}

func (s *Store) stream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	is, err := s.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s.server != nil {
			if err := s.server.mayMake(want.Name); err != nil {
				return nil, err
			}
		}
		is, err = s.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another weir was first
			is, err = s.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, s.explained("stream "+want.Name, err)
	}
	have := is.CachedInfo().Config
	if have.Retention != want.Retention || have.Storage != want.Storage {
		return nil, fmt.Errorf("stream %s is there and is not weir's (retention %s, storage %s): give weir another name, or remove it with `nats stream rm %s`",
			want.Name, have.Retention, have.Storage, want.Name)
	}
	changed, differs := brought(have, want)
	if !differs {
		return is, nil
	}
	s.log.Info("settings of a stream are changed", "stream", want.Name)
	is, err = s.js.UpdateStream(ctx, changed)
	return is, s.explained("change settings of stream "+want.Name, err)
}

// brought is have with what weir wants; what weir has no opinion of, as on
// which servers it is placed, stays.
func brought(have, want jetstream.StreamConfig) (jetstream.StreamConfig, bool) {
	got := have
	got.Subjects = want.Subjects
	got.Discard, got.DiscardNewPerSubject = want.Discard, want.DiscardNewPerSubject
	got.MaxBytes, got.MaxMsgsPerSubject = want.MaxBytes, want.MaxMsgsPerSubject
	got.MaxMsgs, got.MaxAge = want.MaxMsgs, 0
	got.AllowMsgTTL, got.AllowDirect = want.AllowMsgTTL, false
	got.Replicas = want.Replicas
	if want.Duplicates > 0 {
		got.Duplicates = want.Duplicates
	}
	unlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	same := len(have.Subjects) == 1 && have.Subjects[0] == got.Subjects[0] &&
		have.Discard == got.Discard && have.DiscardNewPerSubject == got.DiscardNewPerSubject &&
		unlimited(have.MaxBytes) == unlimited(got.MaxBytes) &&
		unlimited(have.MaxMsgsPerSubject) == unlimited(got.MaxMsgsPerSubject) &&
		unlimited(have.MaxMsgs) == unlimited(got.MaxMsgs) && have.MaxAge == 0 &&
		have.AllowMsgTTL == got.AllowMsgTTL && !have.AllowDirect &&
		have.Replicas == got.Replicas && have.Duplicates == got.Duplicates
	return got, !same
}

// explained is told, with what to do where a server has not what weir needs.
func (s *Store) explained(what string, err error) error {
	if err == nil {
		return nil
	}
	if denied := s.denied.Load(); denied != nil {
		return fmt.Errorf("%s: the NATS server refuses: %s: allow this user to publish to $JS.API.>, $JS.ACK.> and %s.>, and to subscribe to _INBOX.> and %[3]s.news", what, *denied, s.cfg.Name)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		if s.server != nil {
			return fmt.Errorf("%s in %s cannot be used (%s): %w: put the folder back from a backup, or move it away to begin with an empty queue", what, s.cfg.Dir, s.server.log.said(), err)
		}
		switch api.ErrorCode {
		case codeReplicas:
			return fmt.Errorf("%s: the NATS server is no cluster, and cannot keep %d replicas: ask for 1, or give the URLs of a cluster", what, s.cfg.Replicas)
		case codeNoPeers:
			return fmt.Errorf("%s: %w: the NATS cluster has not enough servers with room for %d replicas (%s)", what, queue.ErrAway, s.cfg.Replicas, api.Description)
		case codeStorage, codeAccountResources, codeResources:
			return fmt.Errorf("%s: the NATS server has not the room that it is to set aside (%s): lower the bounds of the store or raise the server's", what, api.Description)
		case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
			return fmt.Errorf("%s: %w", what, errNoJetStream)
		}
		if api.Code == 400 || api.Code == 403 {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return told(what, err)
}

var errNoJetStream = errors.New("the NATS server keeps nothing: begin it with JetStream (nats-server -js), and enable it for this account")
