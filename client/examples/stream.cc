// quern from C++: the handle in a unique_ptr, the events in a lambda.
// c++ -std=c++17 stream.cc $(pkg-config --cflags --libs quern) -o stream
#include <functional>
#include <iostream>
#include <memory>
#include <quern.h>
#include <stdexcept>
#include <string>
#include <string_view>

class Service
{
  public:
    Service()
    {
        quern *q = nullptr;
        if (quern_connect(&q, nullptr) < 0)
            throw std::runtime_error(quern_connect_error());
        handle.reset(q);
    }

    quern_result generate(std::string_view prompt, unsigned max_tokens,
                          std::function<void(std::string_view)> on_text)
    {
        quern_request request;
        quern_request_init(&request);
        request.input = prompt.data();
        request.input_size = prompt.size();
        request.given = QUERN_GIVEN_MAX_TOKENS;
        request.max_tokens = max_tokens;
        quern_result result{};
        auto each = [](void *arg, const quern_event *event) {
            if (event->type == QUERN_EVENT_TOKEN)
                (*static_cast<decltype(on_text) *>(arg))({event->data, event->data_size});
            return 0;
        };
        if (quern_generate(handle.get(), &request, each, &on_text, &result) < 0)
            throw std::runtime_error(quern_error(handle.get()));
        return result;
    }

  private:
    struct Close {
        void operator()(quern *q) const
        {
            quern_close(q);
        }
    };
    std::unique_ptr<quern, Close> handle;
};

int main(int argc, char **argv)
try {
    Service service;
    auto result = service.generate(argc > 1 ? argv[1] : "The mill by the river", 16,
                                   [](std::string_view text) { std::cout << text << std::flush; });
    std::cout << '\n' << result.final_.generated << " tokens\n";
    return result.final_.code;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 69;
}
