package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

// Codes of JetStream's errors that the client library does not name.
const (
	codeResources        jetstream.ErrorCode = 10023
	codeMemory           jetstream.ErrorCode = 10028
	codeNotFound         jetstream.ErrorCode = 10037
	codeStorage          jetstream.ErrorCode = 10047
	codeTooLarge         jetstream.ErrorCode = 10054
	codeNoPeers          jetstream.ErrorCode = 10005
	codeAccountResources jetstream.ErrorCode = 10002
	codeReplicas         jetstream.ErrorCode = 10074
	codeNotStored        jetstream.ErrorCode = 10077
	codeWrongLast        jetstream.ErrorCode = 10071
	codeWrongLastConst   jetstream.ErrorCode = 10164
)

// told wraps what NATS answered in what a queue.Store may answer.
func told(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", what, kind(err), err)
}

func kind(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return kindOfAnswer(api)
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) && strings.Contains(err.Error(), "no message found"):
		return queue.ErrNotFound
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return queue.ErrNotFound
	case errors.Is(err, nats.ErrMaxPayload):
		return queue.ErrTooLarge
	}
	return queue.ErrAway
}

func kindOfAnswer(api *jetstream.APIError) error {
	switch api.ErrorCode {
	case codeNotFound:
		return queue.ErrNotFound
	case codeResources, codeMemory, codeStorage, codeAccountResources:
		return queue.ErrFull
	case codeTooLarge:
		return queue.ErrTooLarge
	case codeNotStored:
		// "maximum bytes exceeded", "maximum messages per subject exceeded";
		// anything else is about the server, not about room.
		if strings.Contains(api.Description, "maximum") || strings.Contains(api.Description, "no space left") {
			return queue.ErrFull
		}
	}
	return queue.ErrAway
}

func isWrongLast(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeWrongLast || api.ErrorCode == codeWrongLastConst)
}

// mayRepeat: nobody answered, so that asking again may help and the answer to
// the first is not known.
func mayRepeat(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting) ||
		errors.Is(err, nats.ErrDisconnected)
}
